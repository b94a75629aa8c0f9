"""The classes that classifiers see in the images of a localization data set, best first."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.detection.dataset import DetectionDataset
from resdet.data.localization.dataset import image_labels
from resdet.errors import UserError, first_few
from resdet.evaluation.imagenet_files import GUESSES
from resdet.files.findings import DataError
from resdet.files.images import read_image
from resdet.inference.test_time import log_mean_softmax, score_images
from resdet.interop.loaded import are_numbered
from resdet.models.classifier import Classifier
from resdet.models.predict import inference_mode
from resdet.models.views import Views

logger = logging.getLogger("resdet")

PROGRESS_S = 30.0


@dataclass
class WholeImages:
    """A localization data set as `resdet.inference.test_time.Images`."""

    data: DetectionDataset
    broken: list[str] = field(default_factory=list)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) the class of each image, 0..K-1 of the data."""
        return image_labels(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def name(self, index: int) -> str:
        return str(self.data.path(index))

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) RGB; DataError where the image can't be read."""
        return read_image(self.data.path(index), self.data.max_pixels)


def class_guesses(
    classifiers: Sequence[Classifier],
    views: Sequence[Views],
    data: DetectionDataset,
    class_names: Sequence[str],
    *,
    batch_size: int,
    workers: int,
) -> tuple[Tensor, dict[int, str]]:
    """(N, 5) int64: the best classes of each image, as positions in `class_names`, best first; of
    fewer classes all. And why images could not be read, by position: their classes mean nothing.

    Of several classifiers the mean softmax decides, of equal scores the first class. `views` are
    those of each classifier, `class_names` those of the localizers. Raises UserError where a class
    is unknown there, or classifiers differ in their classes.
    """
    names = classifiers[0].class_names
    for other in classifiers[1:]:
        if other.class_names != names:
            raise UserError(
                "--classifier: the classifiers of an ensemble need the same classes: one has "
                f"{first_few(names, 3)}, another {first_few(other.class_names, 3)}"
            )
    known = {name: label for label, name in enumerate(class_names)}
    absent = [name for name in names if name not in known]
    if absent and are_numbered(names):
        raise UserError(
            f"--classifier: its file has no names for its {len(names)} classes, which the "
            "localizer needs; give a run, whose checkpoint has them"
        )
    if absent:
        raise UserError(
            f"--classifier: {len(absent)} of its {len(names)} classes are unknown to the "
            f"localizer: {first_few(absent, 4)}; both need the same class names"
        )
    of_localizer = torch.tensor([known[name] for name in names])
    broken: dict[int, str] = {}
    every = [
        _logits(classifier, cut, data, batch_size, workers, broken)
        for classifier, cut in zip(classifiers, views, strict=True)
    ]
    logits = every[0] if len(every) == 1 else log_mean_softmax(torch.stack(every))
    order = logits.argsort(dim=1, descending=True, stable=True)
    return of_localizer[order[:, :GUESSES]], broken


def _logits(
    classifier: Classifier,
    views: Views,
    data: DetectionDataset,
    batch_size: int,
    workers: int,
    broken: dict[int, str],
) -> Tensor:
    """(N, K) of one classifier; see `score_images`. `broken` gets the images that can't be read."""
    images = WholeImages(data)
    logits = torch.zeros(len(images), classifier.num_classes)
    spoken = time.perf_counter()
    with inference_mode(classifier):
        scored = score_images(classifier, images, views, batch_size=batch_size, workers=workers)
        for done, (index, outcome) in enumerate(scored, 1):
            if isinstance(outcome, DataError):
                broken[index] = str(outcome)
            else:
                logits[index] = outcome
            if time.perf_counter() - spoken > PROGRESS_S:
                spoken = time.perf_counter()
                logger.info("classified %d of %d images", done, len(images))
    return logits
