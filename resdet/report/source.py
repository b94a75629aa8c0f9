"""What a report of one run is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.config.loading import AnyConfig
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.stored import Stored
from resdet.files.findings import DataError
from resdet.files.windows import WholeImage, Windows, open_windows
from resdet.report.pictures import Entry


@dataclass(frozen=True)
class RunSource:
    """One run: its folder, its config, and what of its data and predictions is there."""

    folder: Path
    config: AnyConfig
    """The run's own."""
    evaluated: AnyConfig
    """That of the evaluation, in which data and metric may be others."""
    stored: Stored | None = None
    """The predictions of its last or best evaluation."""
    val: Any = None
    """The data set of that evaluation: a DetectionDataset, or a classifier's images."""
    train: AnnotationTable | NDArray[np.int64] | None = None
    """The annotations of data.train, or a classifier's labels."""
    notes: Sequence[str] = ()
    """Why something is missing."""

    @property
    def name(self) -> str:
        return self.folder.resolve().name


class TruthImages:
    """The images of a detector's ground truth, by row."""

    def __init__(self, truth: AnnotationTable, dataset: DetectionDataset) -> None:
        self.truth, self.dataset = truth, dataset.untiled
        self.positions = {image: place for place, image in enumerate(self.dataset.image_ids)}

    def key(self, image: int) -> str:
        """The image file."""
        return str(self.dataset.path(self.positions[self.truth.image_ids[image]]))

    def entry(self, image: int) -> Entry:
        """The image for an album."""
        height, width = self.truth.sizes[image].tolist()
        name = self.truth.file_names[image] or str(self.truth.image_ids[image])
        position = self.positions[self.truth.image_ids[image]]
        return Entry(name, partial(open_image, self.dataset, position), (height, width))


def open_image(data: Any, position: int) -> Windows:
    """An image of a data set for a picture; a detector's may be too large to be decoded whole.
    DataError for what can't be read or has another size now."""
    if not isinstance(data, DetectionDataset):
        return WholeImage(data.read(position))
    image = open_windows(data.path(position), data.max_pixels)
    data.check_size(position, *image.size)
    return image


def check_images(truth: AnnotationTable, dataset: DetectionDataset) -> None:
    """DataError where an image of the ground truth is not in the data set."""
    known = set(dataset.image_ids)
    lost = [image for image in truth.image_ids if image not in known]
    if lost:
        raise DataError(f"{truth.source}: image {lost[0]!r} was evaluated and is no longer there")
