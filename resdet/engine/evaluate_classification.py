"""Validation: metrics and the loss of a classifier on a data set, over all processes."""

import logging
import time
from collections.abc import Iterator, Sequence
from functools import partial
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
from resdet.engine.validation import Validation, share
from resdet.evaluation import Evaluator
from resdet.evaluation.classification import unreadable
from resdet.hardware import Precision
from resdet.models.classifier import Classifier
from resdet.structures import readable_names

logger = logging.getLogger("resdet")


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
    evaluator: Evaluator,
    *,
    processes: Processes,
    precision: Precision,
    broken: Sequence[str] = (),
    stop: StopRequest | None = None,
    num_pictures: int = 0,
) -> Validation | None:
    """Metrics of the images as they are; the same in every process.

    `broken` names unreadable images that no batch has. None where a stop was requested in some
    process meanwhile.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    distributed.share_buffers(model, processes)
    if processes.is_main:
        evaluator.update(broken, unreadable(len(broken), model.num_classes))
    losses: list[Tensor] = []
    shown: list[tuple[np.ndarray, str]] = []
    problems: list[str] = []
    num_images = 0
    for batch in batches:
        if stop:
            break
        batch = batch.to(processes.device)
        with precision.autocast():
            logits = model(model.normalize(batch.images))[0].float()
        evaluator.update(batch.paths, (logits, batch.labels))
        problems += batch.problems
        num_images += int((batch.labels >= 0).sum())
        sums = nn.functional.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
        losses.append(sums.double())
        if len(shown) < num_pictures:
            shown += _shown(model, batch, logits, num_pictures - len(shown))
    model.train(was_training)
    if distributed.any_process(bool(stop), processes):
        return None
    total = float(torch.stack(losses).sum()) if losses else 0.0
    parts = distributed.gather_to_main((evaluator.state, total, num_images, problems), processes)
    validation = None
    if processes.is_main:
        for state, *_ in parts[1:]:
            evaluator.merge(state)
        for problem in (problem for part in parts for problem in part[3]):
            logger.warning(f"left out of the validation: {problem}")
        result = evaluator.compute()
        loss = {"loss_cross_entropy": sum(p[1] for p in parts) / sum(p[2] for p in parts)}
        draw = partial(pictures.draw_labelled, shown)
        validation = Validation(result, loss, time.perf_counter() - start, draw)
    return share(validation, processes)


def _shown(
    model: Classifier, batch: ClassificationBatch, logits: Tensor, count: int
) -> list[tuple[np.ndarray, str]]:
    """The first images of a batch, each with its class and, where it is wrong, the guess."""
    pictures = []
    names = readable_names(model.class_names)
    arrays = batch.images[:count].permute(0, 2, 3, 1).cpu().numpy()
    guesses = logits[:count].argmax(1).tolist()
    for array, label, guess in zip(arrays, batch.labels[:count].tolist(), guesses, strict=True):
        true = names[label] if label >= 0 else "unreadable"
        words = true if guess == label else f"{names[guess]} (is {true})"
        pictures.append((array, words))
    return pictures
