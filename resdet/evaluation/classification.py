"""Top-1 and top-5 accuracy and the confusion matrix, and the scores that they are counted from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.errors import UserError

TOP = 5


@dataclass
class ClassificationCounts:
    """What one process counted; plain values that travel between processes."""

    confusion: NDArray[np.int64]
    """(K, K) images by true class (row) and predicted class (column)."""
    num_top5: int = 0
    """Images whose true class is among the five best."""
    broken: list[str] = field(default_factory=list)
    """Images that could not be read, by name."""


class ClassificationEvaluator:
    """Counts hits batch by batch.

    The rank of a class is the number of classes with a higher logit, and of classes with an equal
    one and a lower number: of equal logits the first is the prediction, as with argmax, so that a
    network whose outputs are all alike gets the accuracy of a guess. NaN ranks last. Of fewer than
    five classes, top-5 counts them all.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._counts = ClassificationCounts(np.zeros((num_classes, num_classes), np.int64))

    def update(self, logits: Tensor, labels: Tensor, names: Sequence[str]) -> None:
        """Count logits (B, K) or any scores in their order, on any device, with labels (B,) int64.

        A label of -1 is an image that could not be read: it is kept by its name of `names` (B,)
        and left out of the accuracy. Raises UserError that names the image of a label outside
        0..K-1.
        """
        assert logits.shape == (len(names), self.num_classes), (
            "logits are (B, K), one name an image"
        )
        predicted, ranks = _predicted_and_ranks(logits, labels.to(logits.device))
        values = torch.stack([labels.to(logits.device), predicted, ranks]).cpu().numpy()
        for row in np.flatnonzero((values[0] < -1) | (values[0] >= self.num_classes)).tolist():
            raise UserError(
                f"{names[row]}: its label is {values[0, row]}, and the model has "
                f"{self.num_classes} classes (0 to {self.num_classes - 1}); give the data the "
                "model's classes"
            )
        for row in np.flatnonzero(values[0] == -1).tolist():
            self.add_broken(names[row])
        truth, guess, rank = values[:, values[0] >= 0]
        np.add.at(self._counts.confusion, (truth, guess), 1)
        self._counts.num_top5 += int((rank < TOP).sum())

    def add_broken(self, name: str) -> None:
        """An image that could not be read."""
        self._counts.broken.append(name)

    def counts(self) -> ClassificationCounts:
        """What was counted so far, for `merge` in another process."""
        return self._counts

    def merge(self, counts: ClassificationCounts) -> None:
        """Add what another process counted on other images."""
        self._counts = ClassificationCounts(
            self._counts.confusion + counts.confusion,
            self._counts.num_top5 + counts.num_top5,
            self._counts.broken + counts.broken,
        )

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) images by true class (row) and predicted class (column)."""
        return self._counts.confusion

    @property
    def broken(self) -> list[str]:
        """Names of the images that could not be read."""
        return self._counts.broken

    def compute(self) -> dict[str, float | int]:
        """top1_percent and top5_percent (accuracy, 0..100), num_images (read), num_broken.

        Raises UserError where no image could be read.
        """
        total = int(self.confusion.sum())
        if not total:
            first = f", first {self.broken[0]}" if self.broken else ""
            raise UserError(
                f"no image to evaluate: {len(self.broken)} could not be read{first}; check data.val"
            )
        return {
            "top1_percent": 100 * int(np.trace(self.confusion)) / total,
            "top5_percent": 100 * self._counts.num_top5 / total,
            "num_images": total,
            "num_broken": len(self.broken),
        }


def _predicted_and_ranks(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The best class of each row of logits (B, K), and the rank of its label (B,), from 0."""
    known = torch.where(logits.isnan(), -torch.inf, logits)
    rows = labels.clamp(0, logits.shape[1] - 1)[:, None]
    own = known.gather(1, rows)
    before = torch.arange(logits.shape[1], device=logits.device) < rows
    ranks = ((known > own) | ((known == own) & before)).sum(1)
    return known.argmax(1), ranks


@dataclass
class Scores:
    """A classifier's answers on a data set, without the images that could not be read."""

    logits: NDArray[np.float32]
    """(N, K) logits of one view an image; of several, the logarithm of the mean softmax, whose own
    softmax is that mean."""
    labels: NDArray[np.int64]
    """(N,) true classes, 0..K-1."""
    files: list[str]
    """N names of the images."""
    class_names: list[str]
    """K names."""
    broken: list[str] = field(default_factory=list)
    """Names of the images that could not be read."""

    def evaluate(self) -> ClassificationEvaluator:
        """The metric, with all of the scores counted."""
        evaluator = ClassificationEvaluator(len(self.class_names))
        for start in range(0, len(self.labels), 4096):
            part = slice(start, start + 4096)
            evaluator.update(
                torch.from_numpy(self.logits[part]),
                torch.from_numpy(self.labels[part]),
                self.files[part],
            )
        for name in self.broken:
            evaluator.add_broken(name)
        return evaluator

    def save(self, path: Path) -> None:
        """Write `logits`, `labels`, `files` and `class_names` as an npz without pickled objects."""
        beside = path.with_name(path.name + ".part")
        with beside.open("wb") as file:
            np.savez(
                file,
                logits=self.logits,
                labels=self.labels,
                files=np.array(self.files, dtype=np.str_),
                class_names=np.array(self.class_names, dtype=np.str_),
            )
        beside.replace(path)
