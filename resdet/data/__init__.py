"""Data: COCO files and labelled images, our geometry, albumentations, and the loaders."""

from resdet.data.cifar import CifarData, load_cifar
from resdet.data.coco import CocoDetection, Sample
from resdet.data.findings import DataError, Finding, missing_data_message
from resdet.data.image import read_image
from resdet.data.images import LabelledImages, open_images
from resdet.data.loader import (
    Batch,
    TrainPlan,
    collate,
    collate_images,
    eval_loader,
    train_loader,
)
from resdet.data.pixels import resize_image
from resdet.data.transforms import LargeScaleJitter, ShortEdge, TestTransform, TrainTransform

__all__ = [
    "Batch",
    "CifarData",
    "CocoDetection",
    "DataError",
    "Finding",
    "LabelledImages",
    "LargeScaleJitter",
    "Sample",
    "ShortEdge",
    "TestTransform",
    "TrainPlan",
    "TrainTransform",
    "collate",
    "collate_images",
    "eval_loader",
    "load_cifar",
    "missing_data_message",
    "open_images",
    "read_image",
    "resize_image",
    "train_loader",
]
