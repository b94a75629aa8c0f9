"""The only package that reads configs to make modules and data sets."""

from resdet.factory.build import build
from resdet.factory.classification import (
    build_classifier,
    build_trained_classifier,
    load_classifier,
)
from resdet.factory.detection import (
    build_model,
    build_train_data,
    build_trained,
    build_val_data,
    load_start_weights,
)
from resdet.factory.images import build_cls_train_data, build_cls_val_data

__all__ = [
    "build",
    "build_classifier",
    "build_cls_train_data",
    "build_cls_val_data",
    "build_model",
    "build_train_data",
    "build_trained",
    "build_trained_classifier",
    "build_val_data",
    "load_classifier",
    "load_start_weights",
]
