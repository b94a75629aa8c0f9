"""Data: COCO files, our geometry, albumentations, and the loaders."""

from resdet.data.coco import CocoDetection, Sample
from resdet.data.findings import DataError, Finding, missing_data_message
from resdet.data.image import read_image
from resdet.data.loader import (
    Batch,
    TrainPlan,
    collate,
    collate_images,
    eval_loader,
    train_loader,
)
from resdet.data.transforms import (
    LargeScaleJitter,
    ShortEdge,
    TestTransform,
    TrainTransform,
    resize_image,
)

__all__ = [
    "Batch",
    "CocoDetection",
    "DataError",
    "Finding",
    "LargeScaleJitter",
    "Sample",
    "ShortEdge",
    "TestTransform",
    "TrainPlan",
    "TrainTransform",
    "collate",
    "collate_images",
    "eval_loader",
    "missing_data_message",
    "read_image",
    "resize_image",
    "train_loader",
]
