"""Top-1 and top-5 accuracy and the confusion matrix, and the scores that they are counted from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.errors import UserError
from resdet.evaluation.result import Evaluator, Result
from resdet.evaluation.stored import TOP, Answers
from resdet.files.writing import open_atomic

E = TypeVar("E", bound=Evaluator)


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
    """Accuracy as an `Evaluator`: counts hits batch by batch.

    The rank of a class is the number of classes with a higher logit, and of classes with an equal
    one and a lower number: of equal logits the first is the prediction, as with argmax, so that a
    network whose outputs are all alike gets the accuracy of a guess. NaN ranks last. Of fewer than
    five classes, top-5 counts them all.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.state = ClassificationCounts(np.zeros((num_classes, num_classes), np.int64))

    def update(self, image_ids: Sequence[int | str], predictions: tuple[Tensor, Tensor]) -> None:
        """Count logits (B, K), or any scores in their order, with labels (B,) int64, on any device.

        A label of -1 is an image that could not be read: its id of `image_ids` (B,) is kept, and
        it is left out of the accuracy. Raises UserError that names the image of a label outside
        0..K-1.
        """
        logits, labels = predictions
        assert logits.shape == (len(image_ids), self.num_classes), "logits (B, K), B image ids"
        predicted, ranks = _predicted_and_ranks(logits, labels.to(logits.device))
        values = torch.stack([labels.to(logits.device), predicted, ranks]).cpu().numpy()
        for row in np.flatnonzero((values[0] < -1) | (values[0] >= self.num_classes)).tolist():
            raise UserError(
                f"{image_ids[row]}: its label is {values[0, row]}, and the model has "
                f"{self.num_classes} classes (0 to {self.num_classes - 1}); give the data the "
                "model's classes"
            )
        for row in np.flatnonzero(values[0] == -1).tolist():
            self.state.broken.append(str(image_ids[row]))
        truth, guess, rank = values[:, values[0] >= 0]
        np.add.at(self.state.confusion, (truth, guess), 1)
        self.state.num_top5 += int((rank < TOP).sum())

    def merge(self, state: ClassificationCounts) -> None:
        """Add what another process counted on other images."""
        self.state.confusion += state.confusion
        self.state.num_top5 += state.num_top5
        self.state.broken += state.broken

    @property
    def confusion(self) -> NDArray[np.int64]:
        """(K, K) images by true class (row) and predicted class (column)."""
        return self.state.confusion

    def compute(self) -> Result:
        """top1_percent and top5_percent (accuracy, 0..100), num_images (read), num_broken.

        Raises UserError where no image could be read.
        """
        total, broken = int(self.confusion.sum()), self.state.broken
        if not total:
            first = f", first {broken[0]}" if broken else ""
            raise UserError(
                f"no image to evaluate: {len(broken)} could not be read{first}; check data.val"
            )
        top1 = 100 * int(np.trace(self.confusion)) / total
        top5 = 100 * self.state.num_top5 / total
        words = f"top-1 {top1:.2f} % (error {100 - top1:.2f}), top-5 {top5:.2f} %"
        if broken:
            words += f"; {len(broken)} image(s) could not be read"
        summary = {
            "top1_percent": top1,
            "top5_percent": top5,
            "num_images": total,
            "num_broken": len(broken),
        }
        return Result(summary, ("top-1 %", top1), words)


def unreadable(count: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """What `ClassificationEvaluator.update` takes for images that no batch has."""
    return torch.zeros(count, num_classes), torch.full((count,), -1)


def answers_of(
    logits: Tensor, labels: Tensor, names: Sequence[str], class_names: Sequence[str]
) -> Answers:
    """What a report needs of logits (B, K), or scores whose softmax counts, with labels (B,) and
    the B `names` of images; without those that could not be read, whose label is -1."""
    known = torch.where(logits.isnan(), -torch.inf, logits.float())
    # stable: of equal logits the first class is the prediction, as in the evaluator
    order = known.sort(dim=1, descending=True, stable=True).indices[:, :TOP]
    shares = known.softmax(1).nan_to_num(0.0)
    own = shares.gather(1, labels.to(logits.device).clamp(min=0)[:, None])[:, 0]
    columns = (labels, order, shares.gather(1, order), own)
    truth, top, top_scores, own_scores = (column.cpu().numpy() for column in columns)
    keep = truth >= 0
    kept = [name for name, is_kept in zip(names, keep.tolist(), strict=True) if is_kept]
    return Answers(
        kept, truth[keep], top[keep], top_scores[keep], own_scores[keep], list(class_names)
    )


def join_answers(parts: Sequence[Answers]) -> Answers | None:
    """The answers of several batches and processes, by name; None without any."""
    if not parts:
        return None
    names = [name for part in parts for name in part.names]
    order = sorted(range(len(names)), key=names.__getitem__)
    columns = ("labels", "top", "top_scores", "own_scores")
    labels, top, top_scores, own_scores = (
        np.concatenate([getattr(part, column) for part in parts])[order] for column in columns
    )
    in_order = [names[row] for row in order]
    return Answers(in_order, labels, top, top_scores, own_scores, parts[0].class_names)


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
    """(N, K) logits of one view per image; of several, the logarithm of the mean softmax, whose own
    softmax is that mean."""
    labels: NDArray[np.int64]
    """(N,) true classes, 0..K-1."""
    files: list[str]
    """N names of the images."""
    class_names: list[str]
    """K names."""
    broken: list[str] = field(default_factory=list)
    """Names of the images that could not be read."""
    failure: str | None = None
    """See `Result.failure`."""
    metric: str = "accuracy"
    """`eval.metric` of the run, computed beside the accuracy if it is another one."""
    config: dict[str, Any] | None = None
    """The config of the evaluation, as plain values; None for an ensemble."""

    def feed(self, evaluator: E) -> E:
        """`evaluator`, a classifier's, after all images; unreadable ones have the label -1."""
        for start in range(0, len(self.labels), 4096):
            rows = slice(start, start + 4096)
            logits, labels = self.logits[rows], self.labels[rows]
            evaluator.update(self.files[rows], (torch.from_numpy(logits), torch.from_numpy(labels)))
        evaluator.update(self.broken, unreadable(len(self.broken), len(self.class_names)))
        return evaluator

    def answers(self) -> Answers:
        """The same as a report needs it."""
        parts = []
        for start in range(0, len(self.labels), 4096):
            rows = slice(start, start + 4096)
            logits, labels = (torch.from_numpy(each[rows]) for each in (self.logits, self.labels))
            parts.append(answers_of(logits, labels, self.files[rows], self.class_names))
        return join_answers(parts) or answers_of(
            torch.zeros(0, len(self.class_names)), torch.zeros(0).long(), [], self.class_names
        )

    def save(self, path: Path) -> None:
        """Write `logits`, `labels`, `files` and `class_names` as an npz without pickled objects."""
        with open_atomic(path, "wb") as file:
            np.savez(
                file,
                logits=self.logits,
                labels=self.labels,
                files=np.array(self.files, dtype=np.str_),
                class_names=np.array(self.class_names, dtype=np.str_),
            )
