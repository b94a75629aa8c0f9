"""Validation: COCO metrics and losses of a model on a data set, over all processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.data.detection.batches import collate
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.loader import eval_loader
from resdet.engine import distributed, pictures
from resdet.engine.distributed import Processes
from resdet.engine.signals import StopRequest
from resdet.errors import UserError
from resdet.evaluation.coco import KINDS, CocoEvaluator, CocoResult
from resdet.evaluation.coco_input import GroundTruth, prepare_ground_truth
from resdet.evaluation.coco_report import write_report
from resdet.hardware import Precision
from resdet.models.rcnn import RCNN
from resdet.structures import Detections

logger = logging.getLogger("resdet")

PROGRESS_S = 30.0
NOT_IN_DATA = -1
"""Category id of a class that the data does not have; no record of it is made."""


@dataclass
class Validation:
    """What one pass over a data set found."""

    result: CocoResult
    losses: dict[str, float]
    """Mean over the images, by name; empty where not computed."""
    seconds: float
    records: list[dict[str, Any]] = field(default_factory=list)
    """COCO result records, in the main process."""
    pictures: list[tuple[str, Detections]] = field(default_factory=list)
    """The first images' paths and detections, in the main process."""

    @property
    def loss(self) -> float | None:
        """Sum of the losses; None where not computed."""
        return sum(self.losses.values()) if self.losses else None

    @property
    def metric(self) -> tuple[str, float]:
        """AP of masks where there are any, else of boxes."""
        kind = [kind for kind in KINDS if kind in self.result.summary][-1]
        return f"{kind} AP", self.result.summary[kind]["AP"]

    def line(self) -> dict[str, Any]:
        """Metrics and losses for log.jsonl."""
        return {
            "eval": self.result.summary,
            "val_loss": self.loss,
            "val_losses": self.losses,
            "eval_s": round(self.seconds, 2),
        }

    def words(self) -> str:
        """The same for a person."""
        words = [
            f"{kind} AP {numbers['AP']:.4f} AP50 {numbers['AP50']:.4f} AP75 {numbers['AP75']:.4f}"
            for kind, numbers in self.result.summary.items()
        ]
        return "; ".join(words + ([] if self.loss is None else [f"val loss {self.loss:.4f}"]))

    def write(self, folder: Path) -> None:
        """eval.json, the table of the classes, the PR curves."""
        write_report(self.result, folder)

    def draw(self, folder: Path) -> None:
        """Some validation images with what was found in them."""
        pictures.draw_predictions(self.pictures, folder / "plots" / "val_predictions.jpg")


@dataclass
class _Found:
    """What one process gathered; plain values that travel between processes."""

    records: list[dict[str, Any]] = field(default_factory=list)
    losses: list[tuple[int, int, list[float]]] = field(default_factory=list)
    """(first image's index, images, losses) of each batch."""
    pictures: list[tuple[int, str, Detections]] = field(default_factory=list)


def evaluate(
    model: RCNN,
    dataset: DetectionDataset,
    *,
    processes: Processes,
    precision: Precision,
    batch_size: int = 1,
    max_dets: Sequence[int] = (1, 10, 100),
    backend: str = "fast",
    val_loss: bool = True,
    workers: int = 0,
    truth: GroundTruth | None = None,
    stop: StopRequest | None = None,
    num_pictures: int = 0,
) -> Validation | None:
    """Metrics for bbox, and segm where the model has masks; the same in every process.

    Each process takes its share of the images, and their records meet in the main one. None where
    a stop was requested in some process meanwhile. `truth` saves preparing the ground truth anew.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    distributed.share_buffers(model, processes)
    names, found = _run_model(
        model, dataset, processes, precision, batch_size, val_loss, workers, stop, num_pictures
    )
    model.train(was_training)
    if distributed.any_process(bool(stop), processes):
        return None
    gathered = distributed.gather_to_main(found, processes)
    validation = None
    if processes.is_main:
        evaluator = CocoEvaluator(
            truth if truth is not None else dataset.ground_truth(),
            kinds_of(model),
            backend,
            max_dets,
        )
        for part in gathered:
            evaluator.merge(part.records)
        pictures = sorted((p for part in gathered for p in part.pictures), key=lambda p: p[0])
        validation = Validation(
            evaluator.compute(),
            _mean_losses(names, [row for part in gathered for row in part.losses]),
            time.perf_counter() - start,
        )
    shared = distributed.broadcast(validation, processes)
    if processes.is_main:
        shared.records = evaluator.records
        shared.pictures = [(path, detections) for _, path, detections in pictures]
    return shared


def kinds_of(model: RCNN) -> tuple[str, ...]:
    """What the model's metrics are: bbox, and segm with a mask head."""
    return ("bbox", "segm") if model.has_masks else ("bbox",)


@torch.no_grad()
def _run_model(
    model: RCNN,
    dataset: DetectionDataset,
    processes: Processes,
    precision: Precision,
    batch_size: int,
    val_loss: bool,
    workers: int,
    stop: StopRequest | None,
    num_pictures: int,
) -> tuple[tuple[str, ...], _Found]:
    """This process's images: their records, losses by name, and the detections to draw."""
    found = _Found()
    names: tuple[str, ...] = ()
    rows: list[tuple[int, int]] = []
    losses: list[Tensor] = []
    batches = eval_loader(
        dataset,
        batch_size=batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
        workers=workers,
        pin_memory=processes.device.type == "cuda",
        collate=partial(collate, multiple=model.size_divisibility),
    )
    labels = model_labels(dataset.class_names, model.class_names)
    on_device = labels.to(processes.device)
    # the same classes may have other ids in this file than where the model was trained
    ids = dict(zip(labels.tolist(), dataset.category_ids, strict=True))
    category_ids = [ids.get(label, NOT_IN_DATA) for label in range(model.num_classes)]
    spoken, done = time.perf_counter(), 0
    for batch in batches:
        if stop:
            break
        batch = batch.to(processes.device)
        with precision.autocast():
            detections = model.infer(batch.images, batch.original_sizes)
            if val_loss:
                targets = replace(batch.targets, labels=on_device[batch.targets.labels])
                named = model(batch.images, targets, seed=0, step=0)
                names = tuple(named)
                losses.append(torch.stack([value.double() for value in named.values()]))
                rows.append((batch.indices[0], len(batch.indices)))
        for index, path, image_id, each in zip(
            batch.indices, batch.paths, batch.targets.image_ids, detections, strict=True
        ):
            each = each.cpu()
            each = each[torch.isin(each.labels, labels)]
            each.category_ids = category_ids
            found.records += each.to_coco(image_id)
            if index < num_pictures:
                found.pictures.append((index, path, each))
        done += len(detections)
        if time.perf_counter() - spoken > PROGRESS_S:
            spoken = time.perf_counter()
            logger.info(f"validation: {done * processes.world_size} of {len(dataset)} images")
    values = torch.stack(losses).tolist() if losses else []
    found.losses = [(*row, each) for row, each in zip(rows, values, strict=True)]
    return names, found


def _mean_losses(
    names: tuple[str, ...], rows: list[tuple[int, int, list[float]]]
) -> dict[str, float]:
    """Mean over the images, added in the data set's order: alike for any number of processes."""
    total = sum(count for _, count, _ in rows)
    sums = [0.0] * len(names)
    for _, count, values in sorted(rows):
        sums = [s + count * value for s, value in zip(sums, values, strict=True)]
    return {name: s / total for name, s in zip(names, sums, strict=True)} if total else {}


def prepare_truth(dataset: DetectionDataset, *, masks: bool, source: str) -> GroundTruth:
    """The ground truth to evaluate against; UserError where masks are wanted and there are none."""
    truth = prepare_ground_truth(dataset.ground_truth())
    if masks and truth.annotations and not truth.has_masks:
        raise UserError(
            f"{source}: no annotation has a segmentation, and the model has a mask head; "
            "set model.roi.mask_head=null to find boxes only, or give annotations with masks"
        )
    return truth


def model_labels(data_names: Sequence[str], class_names: Sequence[str]) -> Tensor:
    """(K of the data,) int64: the label that each class of the data has in the model."""
    return torch.tensor([list(class_names).index(name) for name in data_names])


def name_classes(model: RCNN, dataset: DetectionDataset, source: str) -> None:
    """Give a model the names of as many classes in the data where it shares none of them: files of
    other toolkits hold no names, and theirs are `class 1` and so on, in the order of the labels."""
    here, there = list(model.class_names), list(dataset.class_names)
    if len(here) == len(there) and not set(here) & set(there):
        logger.info(
            f"none of the model's {len(here)} classes ({', '.join(here[:3])}, …) is in {source}; "
            f"they are taken by position: {', '.join(there[:8])}{', …' if len(there) > 8 else ''}"
        )
        model.class_names = there


def check_classes(
    dataset: DetectionDataset, class_names: Sequence[str], source: str, *, fewer: bool = False
) -> None:
    """UserError where a data set's labels do not mean what the model's do.

    With `fewer` the data may have some of the model's classes alone, in any order: such a model is
    evaluated on them (torchvision's detectors have ten that COCO does not).
    """
    if list(dataset.class_names) == list(class_names):
        return
    missing = [name for name in class_names if name not in dataset.class_names]
    if fewer and set(dataset.class_names) <= set(class_names):
        if missing:
            logger.info(
                f"{source} has {len(dataset.class_names)} of the model's {len(class_names)} "
                f"classes; detections of the others are left out: {', '.join(missing[:8])}"
                f"{', …' if len(missing) > 8 else ''}"
            )
        return
    extra = [name for name in dataset.class_names if name not in class_names]
    raise UserError(
        f"{source}: its categories are not the model's {len(class_names)} classes"
        + (f"; it lacks {', '.join(missing[:8])}" if missing else "")
        + (f"; it adds {', '.join(extra[:8])}" if extra else "")
        + ("" if missing or extra else "; they come in another order")
        + ". Give data.classes as the list of names that both have"
    )
