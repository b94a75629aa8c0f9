"""Localization data: a `DetectionDataset` whose images have objects of one class each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.data.detection.dataset import DetectionDataset
from resdet.data.localization.transforms import View
from resdet.errors import first_few
from resdet.files.findings import DataError
from resdet.files.images import read_image

EXAMPLES = 3
"""Images that an error names."""


def image_labels(data: DetectionDataset) -> NDArray[np.int64]:
    """(N,) the class of each image, 0..K-1; −1 for an image without objects.

    Raises:
        DataError: an image has objects of several classes.
    """
    table = data.table
    labels = table.labels[data.rows]
    counts = data.stops - data.starts
    first = np.full(len(data), -1)
    first[counts > 0] = labels[data.starts[counts > 0]]
    differs = labels != np.repeat(first, counts)
    if differs.any():
        images = np.unique(np.repeat(data.images, counts)[differs])
        names = first_few([table.image_name(int(row)) for row in images], EXAMPLES)
        raise DataError(
            f"{table.source}: {names}: objects of several classes in one image; localization has "
            "one class per image: crop around each object, or set data.classes"
        )
    return first


@dataclass
class TestImage:
    """A test image, cut into what the network sees of it."""

    __test__ = False  # not a pytest class, whatever its name

    views: list[View]
    size: tuple[int, int]
    """(height, width) of the file, in pixels."""
    label: int
    """Its class, 0..K-1 of the data."""
    image_id: int | str
    path: str
    index: int
    """Position in the data set."""


class LocalizationViewsData(torch.utils.data.Dataset[TestImage]):
    """The images of a data set as views, for the loader's workers to cut."""

    def __init__(
        self, data: DetectionDataset, views: Callable[[NDArray[np.uint8]], list[View]]
    ) -> None:
        self.data, self.views = data, views
        self.labels = image_labels(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> TestImage:
        """The image of (epoch, index); nothing is random in it.

        Raises:
            DataError: the image can't be read, or does not have the size that its file states.
        """
        _, index = key
        path = self.data.path(index)
        pixels = read_image(path, self.data.max_pixels)
        self.data.check_size(index, pixels.shape[0], pixels.shape[1])
        return TestImage(
            self.views(pixels),
            (pixels.shape[0], pixels.shape[1]),
            int(self.labels[index]),
            self.data.table.image_ids[int(self.data.images[index])],
            str(path),
            index,
        )


def as_list(images: Sequence[TestImage]) -> list[TestImage]:
    """What the loader makes of test images: each keeps its own size."""
    return list(images)
