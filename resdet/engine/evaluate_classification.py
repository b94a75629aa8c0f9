"""Validation: metrics and the loss of a classifier on a data set, over all processes."""

import time
from collections.abc import Generator
from contextlib import closing
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
from resdet.engine.validation import Validation, joined, share
from resdet.evaluation import Evaluator
from resdet.evaluation.classification import answers_of, join_answers, unreadable
from resdet.evaluation.stored import Answers
from resdet.hardware import Precision
from resdet.models.classifier import Classifier
from resdet.structures import readable_names


def val_batches(
    data: Any, batch_size: int, *, processes: Processes, workers: int, broken: dict[int, str]
) -> Generator[ClassificationBatch]:
    """Every image of a validation set once over all processes; `broken` as in `eval_loader`."""
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
        broken=broken,
    )


@torch.no_grad()
def validate_classifier(
    model: Classifier,
    data: Any,
    evaluator: Evaluator,
    *,
    processes: Processes,
    precision: Precision,
    batch_size: int,
    workers: int = 0,
    stop: StopRequest | None = None,
    num_pictures: int = 0,
) -> Validation | None:
    """Metrics of the images of `data` as they are; the same in every process.

    None where a stop was requested in some process meanwhile.
    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    distributed.share_buffers(model, processes)
    losses: list[Tensor] = []
    answers: list[Answers] = []
    shown: list[tuple[np.ndarray, str]] = []
    broken: dict[int, str] = {}
    with closing(
        val_batches(data, batch_size, processes=processes, workers=workers, broken=broken)
    ) as batches:
        for batch in batches:
            if stop:
                break
            batch = batch.to(processes.device)
            with precision.autocast():
                logits = model(model.normalize(batch.images))[0].float()
            evaluator.update(batch.paths, (logits, batch.labels))
            answers.append(answers_of(logits, batch.labels, batch.paths, model.class_names))
            losses.append(
                nn.functional.cross_entropy(logits, batch.labels, reduction="sum").double()
            )
            if len(shown) < num_pictures:
                shown += _shown(model, batch, logits, num_pictures - len(shown))
    model.train(was_training)
    if distributed.any_process(bool(stop), processes):
        return None
    total = float(torch.stack(losses).sum()) if losses else 0.0
    parts = distributed.gather_to_main((evaluator.state, total, answers, broken), processes)
    validation = None
    if processes.is_main:
        for state, *_ in parts[1:]:
            evaluator.merge(state)
        broken = joined(part[3] for part in parts)
        names = [*data.broken, *map(data.name, broken)]
        evaluator.update(names, unreadable(len(names), model.num_classes))
        result = evaluator.compute()
        result.detections = join_answers([one for part in parts for one in part[2]])
        count = len(result.detections.names) if result.detections else 0
        loss = {"loss_cross_entropy": sum(part[1] for part in parts) / max(1, count)}
        draw = partial(pictures.draw_labelled, shown)
        validation = Validation(result, loss, time.perf_counter() - start, draw, broken)
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
        words = names[label] if guess == label else f"{names[guess]} (is {names[label]})"
        pictures.append((array, words))
    return pictures
