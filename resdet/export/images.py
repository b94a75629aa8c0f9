"""The images that an exported model is checked and calibrated on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.find import own_path
from resdet.config.loading import override_config
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError, naming
from resdet.factory import (
    build_classification_train_data,
    build_classification_val_data,
    build_train_data,
    build_val_data,
)
from resdet.files.images import SUFFIXES, read_image
from resdet.files.walk import walk
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN

VAL = "val"
"""In place of images: the data.val of the model's run."""


@dataclass
class Images:
    """Images that are read when they are needed."""

    names: list[str]
    read: Callable[[int], NDArray[np.uint8]]
    """(H, W, 3) uint8 RGB of a position in `names`; DataError where it can't be read."""
    truth: AnnotationTable | None = None
    """Their ground truth, in the same order."""

    def __len__(self) -> int:
        return len(self.names)


def images_to_check(
    model: RCNN | Classifier,
    given: str | Path,
    annotations: str | Path | None = None,
    *,
    count: int,
) -> Images:
    """At most `count` images, spread evenly over those of `given`: a folder, a file, or `VAL`.

    `annotations` has the ground truth of a detector's images in the folder `given`, in any format
    that is read for training. UserError where there is no image.
    """
    is_val = str(given) == VAL and not Path(given).exists()
    if annotations is None and not is_val:
        return _files(given, "--check", count)
    changes = []
    if annotations is not None:
        if is_val:
            raise UserError("--annotations: data.val of the run has its own; leave it out")
        if isinstance(model, Classifier):
            raise UserError("--annotations: a classifier is checked on images alone; leave it out")
        section = {"images": str(own_path(given)), "annotations": str(own_path(annotations))}
        changes = ["data.split=null", f"data.val={json.dumps(section, ensure_ascii=False)}"]
    with naming("--check"):
        if isinstance(model, Classifier):
            config = _config(model, ClassificationConfig)
            labelled = build_classification_val_data(config, classes=model.class_names)
            return _spread(labelled, labelled.name, count)
        config = override_config(_config(model, DetectionConfig), changes, "--check")
        dataset = build_val_data(config, masks=model.has_masks)
    if dataset is None:
        raise UserError("--check val: the config of the run has no data.val; give a folder")
    dataset = dataset.untiled
    images = _spread(dataset, dataset.image_name, count)
    keep = np.zeros(len(dataset.table.image_ids), bool)
    keep[dataset.images[_positions(len(dataset), count)]] = True
    images.truth = dataset.table.select_images(keep)
    return images


def images_to_calibrate(
    model: RCNN | Classifier, given: str | Path | None = None, *, count: int
) -> Images:
    """At most `count` images, spread evenly over those of the folder `given`, or the training
    images of the model's run. UserError where these are not there."""
    if given is not None:
        return _files(given, "--calibrate", count)
    try:
        if isinstance(model, Classifier):
            labelled = build_classification_train_data(_config(model, ClassificationConfig))
            return _spread(labelled, labelled.name, count)
        dataset = build_train_data(_config(model, DetectionConfig))
        return _spread(dataset, dataset.image_name, count)
    except UserError as error:
        raise UserError(
            f"int8 is calibrated on the training images of the run, which can't be read: {error}; "
            "give --calibrate IMAGES"
        ) from error


def _files(given: str | Path, option: str, count: int) -> Images:
    folder = own_path(given)
    if folder.is_file():
        paths = [folder]
    elif folder.is_dir():
        paths = list(walk(folder, SUFFIXES))
    else:
        raise UserError(f"{option} {given}: no such file or folder; give a folder of images")
    if not paths:
        raise UserError(f"{option} {given}: no image is in it ({' '.join(SUFFIXES)})")
    chosen = [paths[position] for position in _positions(len(paths), count)]
    return Images([str(path) for path in chosen], lambda index: read_image(chosen[index]))


def _positions(available: int, count: int) -> list[int]:
    """At most `count` positions, spread evenly."""
    if count >= available:
        return list(range(available))
    return [int(position) for position in np.linspace(0, available - 1, count).round()]


def _spread(dataset: Any, name: Callable[[int], str], count: int) -> Images:
    positions = _positions(len(dataset), count)
    return Images(
        [name(position) for position in positions], partial(_read, dataset.read, positions)
    )


def _read(
    read: Callable[[int], NDArray[np.uint8]], positions: Sequence[int], index: int
) -> NDArray[np.uint8]:
    return read(positions[index])


def _config(model: RCNN | Classifier, schema: type[Any]) -> Any:
    """The model's config; UserError where it has none."""
    if not isinstance(model.config, schema):
        raise UserError("the model has no config that names its data; give a folder of images")
    return model.config
