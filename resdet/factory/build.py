"""A model from a config file, of whichever task it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from resdet.config.classification import ClassificationConfig
from resdet.factory import classification, detection
from resdet.factory.imports import load_named_config
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN


def build(
    config: str | Path, weights: str | None = None, overrides: Sequence[str] = ()
) -> RCNN | Classifier:
    """A detector or a classifier from a config file, on the CPU, in evaluation mode.

    `weights` None loads and downloads nothing; "config" does what the config says; anything else
    names the weights of the whole model as `model.weights` does. Class names come from
    `data.classes`, else from the training data. Without the data they are those of COCO, ImageNet
    or CIFAR-10 where the config points at one of these, else `model.num_classes` numbered ones.
    Raises UserError for what a user can fix.
    """
    named = load_named_config(config, overrides)
    if isinstance(named, ClassificationConfig):
        return classification.build_from_config(named, weights)
    return detection.build_from_config(named, weights)
