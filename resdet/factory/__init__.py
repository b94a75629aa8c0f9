"""The only package that reads configs to make modules and data sets."""

from resdet.factory.build import build
from resdet.factory.classification import (
    build_classifier,
    build_trained_classifier,
    load_classifier,
)
from resdet.factory.classification_data import (
    build_classification_train_data,
    build_classification_val_data,
)
from resdet.factory.detection import build_model, build_trained, load_start_weights
from resdet.factory.detection_data import build_train_data, build_val_data

__all__ = [
    "build",
    "build_classification_train_data",
    "build_classification_val_data",
    "build_classifier",
    "build_model",
    "build_train_data",
    "build_trained",
    "build_trained_classifier",
    "build_val_data",
    "load_classifier",
    "load_start_weights",
]
