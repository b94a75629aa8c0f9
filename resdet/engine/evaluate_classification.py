"""Accuracy of a classifier on a data set, over all processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resdet.data.classification.cifar import CifarData
from resdet.data.classification.samples import ClassificationBatch, collate_classification
from resdet.data.loader import eval_loader
from resdet.engine import distributed, pictures
from resdet.engine.distributed import Processes
from resdet.engine.signals import StopRequest
from resdet.evaluation.classification import ClassificationCounts, ClassificationEvaluator
from resdet.files.writing import write_json
from resdet.hardware import Precision
from resdet.models.classifier import Classifier
from resdet.structures import readable_names

logger = logging.getLogger("resdet")


@dataclass
class ClassificationValidation:
    """What one pass over data.val found."""

    numbers: dict[str, float | int]
    """top1_percent, top5_percent, num_images, num_broken."""
    loss: float | None
    """Mean cross-entropy over the images."""
    seconds: float
    pictures: list[tuple[np.ndarray, str]] = field(default_factory=list)
    """Some images (H, W, 3) uint8 with what was found in them, in the main process."""

    @property
    def metric(self) -> tuple[str, float]:
        return "top-1 %", float(self.numbers["top1_percent"])

    def line(self) -> dict[str, Any]:
        return {
            "eval": self.numbers,
            "val_loss": self.loss,
            "val_losses": {} if self.loss is None else {"loss_cross_entropy": self.loss},
            "eval_s": round(self.seconds, 2),
        }

    def words(self) -> str:
        n = self.numbers
        broken = f"; {n['num_broken']} image(s) could not be read" if n["num_broken"] else ""
        loss = "" if self.loss is None else f"; val loss {self.loss:.4f}"
        return (
            f"top-1 {n['top1_percent']:.2f} % (error {100 - n['top1_percent']:.2f}), "
            f"top-5 {n['top5_percent']:.2f} %{loss}{broken}"
        )

    def write(self, folder: Path) -> None:
        write_json(folder / "eval.json", self.numbers)

    def draw(self, folder: Path) -> None:
        pictures.draw_labelled(self.pictures, folder / "plots" / "val_predictions.jpg")


def val_batches(
    data: Any, batch_size: int, *, processes: Processes, workers: int
) -> Iterator[ClassificationBatch]:
    """Every image of a validation set once over all processes."""
    if isinstance(data, CifarData):
        own = range(processes.rank, len(data), processes.world_size)
        for begin in range(0, len(own), batch_size):
            yield data.batch([(0, index) for index in own[begin : begin + batch_size]])
        return
    yield from eval_loader(
        data,
        batch_size=batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
        workers=workers,
        pin_memory=processes.device.type == "cuda",
        collate=collate_classification,
    )


@torch.no_grad()
def validate_classifier(
    model: Classifier,
    batches: Iterator[ClassificationBatch],
    *,
    processes: Processes,
    precision: Precision,
    broken: Sequence[str] = (),
    stop: StopRequest | None = None,
    num_pictures: int = 0,
) -> ClassificationValidation | None:
    """Accuracy of the images as they are; the same in every process.

    `broken` names images that are counted as such although no batch has them. None where a stop
    was requested in some process meanwhile.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    distributed.share_buffers(model, processes)
    evaluator = ClassificationEvaluator(model.num_classes)
    losses: list[Tensor] = []
    shown: list[tuple[np.ndarray, str]] = []
    problems: list[str] = []
    for batch in batches:
        if stop:
            break
        batch = batch.to(processes.device)
        with precision.autocast():
            logits = model(model.normalize(batch.images))[0].float()
        evaluator.update(logits, batch.labels, batch.paths)
        problems += batch.problems
        losses.append(
            nn.functional.cross_entropy(
                logits, batch.labels, ignore_index=-1, reduction="sum"
            ).double()
        )
        if len(shown) < num_pictures:
            shown += _shown(model, batch, logits, num_pictures - len(shown))
    model.train(was_training)
    if distributed.any_process(bool(stop), processes):
        return None
    total = float(torch.stack(losses).sum()) if losses else 0.0
    own: tuple[ClassificationCounts, float, list[str]] = (evaluator.counts(), total, problems)
    merged = ClassificationEvaluator(model.num_classes)
    for name in broken:
        merged.add_broken(name)
    parts = distributed.gather(own, processes)
    for counts, _, found in parts:
        merged.merge(counts)
        for problem in found:
            logger.warning(f"left out of the validation: {problem}")
    numbers = merged.compute()
    loss = sum(each for _, each, _ in parts) / numbers["num_images"]
    return ClassificationValidation(numbers, loss, time.perf_counter() - start, shown)


def _shown(
    model: Classifier, batch: ClassificationBatch, logits: Tensor, count: int
) -> list[tuple[np.ndarray, str]]:
    """The first images of a batch, each with its class and, where it is wrong, the guess."""
    found = []
    names = readable_names(model.class_names)
    arrays = batch.images[:count].permute(0, 2, 3, 1).cpu().numpy()
    guesses = logits[:count].argmax(1).tolist()
    for array, label, guess in zip(arrays, batch.labels[:count].tolist(), guesses, strict=True):
        true = names[label] if label >= 0 else "unreadable"
        words = true if guess == label else f"{names[guess]} (is {true})"
        found.append((array, words))
    return found
