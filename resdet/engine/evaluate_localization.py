"""Validation of a localizer: one box per image for its true class, over all processes."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial

import torch
from torch import Tensor

from resdet.config.localization import LocalizationConfig
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.loader import eval_loader
from resdet.data.localization.dataset import LocalizationViewsData, TestImage, as_list
from resdet.engine import distributed, pictures
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import PROGRESS_S, compute_without
from resdet.engine.signals import StopRequest
from resdet.engine.validation import Validation, joined, share
from resdet.errors import UserError
from resdet.evaluation import OF_BOXES, EvalSettings, Evaluator, build_evaluator
from resdet.factory.imports import naming_imports
from resdet.files.findings import DataError
from resdet.hardware import Precision
from resdet.inference.localization import Guesser
from resdet.structures import Detections

logger = logging.getLogger("resdet")

Wanted = Callable[[TestImage], Tensor]
"""The classes (L,) of the model that are asked for in an image, best first; DataError for an image
that they are not known of."""
_Answered = tuple[list[TestImage], list[Detections]]
"""The images of a batch, and the guesses about each."""
_Shown = tuple[int, str, Detections]
"""(index, path, guesses) of an image that is drawn."""


def make_loc_evaluator(config: LocalizationConfig, dataset: DetectionDataset) -> Evaluator:
    """The metric of the config on the images that have objects; UserError for a detector's."""
    if config.eval.metric in OF_BOXES:
        raise UserError(
            f"eval.metric: {config.eval.metric!r} is for detectors, and a localizer has one box "
            "per class; set imagenet_loc"
        )
    keep = torch.zeros(len(dataset.table.image_ids), dtype=torch.bool)
    keep[torch.from_numpy(dataset.images)] = True
    table = dataset.table.select_images(keep.numpy())
    with naming_imports(config):
        return build_evaluator(
            config.eval.metric, table, EvalSettings(("bbox",), blacklist=config.eval.blacklist)
        )


def evaluate_localizer(
    guesser: Guesser,
    dataset: DetectionDataset,
    evaluator: Evaluator,
    *,
    processes: Processes,
    precision: Precision,
    batch_size: int = 1,
    workers: int = 0,
    stop: StopRequest | None = None,
    num_pictures: int = 0,
    wanted: Wanted | None = None,
) -> Validation | None:
    """Metrics of the guesses; the same in every process.

    `wanted` gives the classes that are asked for, such as a classifier's five best; None is the
    true class alone ("oracle"). The labels of the data are those of the networks, or of classes of
    the same names. None where a stop was requested in some process meanwhile.
    """
    start = time.perf_counter()
    modes = [network.training for network in guesser.networks]
    for network in guesser.networks:
        distributed.share_buffers(network.eval(), processes)
    broken: dict[int, str] = {}
    batches = eval_loader(
        LocalizationViewsData(dataset, guesser.views),
        batch_size=batch_size,
        rank=processes.rank,
        world_size=processes.world_size,
        workers=workers,
        collate=as_list,
        broken=broken,
    )
    shown: list[_Shown] = []
    with closing(batches):
        answered = _run_model(guesser, dataset, batches, precision, wanted, broken)
        for images, answers in _with_progress(answered, len(dataset), processes):
            if stop:
                break
            evaluator.update([each.image_id for each in images], answers)
            shown += [
                (each.index, each.path, answer)
                for each, answer in zip(images, answers, strict=True)
                if each.index < num_pictures
            ]
    for network, mode in zip(guesser.networks, modes, strict=True):
        network.train(mode)
    if distributed.any_process(bool(stop), processes):
        return None
    parts = distributed.gather_to_main((evaluator.state, shown, broken), processes)
    validation = None
    if processes.is_main:
        for state, *_ in parts[1:]:
            evaluator.merge(state)
        pairs = sorted((each for _, own, _ in parts for each in own), key=lambda each: each[0])
        broken = joined(own for *_, own in parts)
        result = compute_without(evaluator, dataset, broken)
        draw = partial(pictures.draw_predictions, dataset, pairs, score_thresh=0.0)
        validation = Validation(result, {}, time.perf_counter() - start, draw, broken)
    return share(validation, processes)


def _with_progress(
    answered: Iterable[_Answered], total: int, processes: Processes
) -> Iterator[_Answered]:
    """The same, with a line in the log now and then."""
    reported, done = time.perf_counter(), 0
    for images, answers in answered:
        yield images, answers
        done += len(images)
        if time.perf_counter() - reported > PROGRESS_S:
            reported = time.perf_counter()
            logger.info(f"validation: {done * processes.world_size} of {total} images")


@torch.no_grad()
def _run_model(
    guesser: Guesser,
    dataset: DetectionDataset,
    batches: Iterable[list[TestImage]],
    precision: Precision,
    wanted: Wanted | None,
    broken: dict[int, str],
) -> Iterator[_Answered]:
    """This process's images and the guesses, with the labels of the data."""
    own = [guesser.class_names.index(name) for name in dataset.class_names]
    of_data = {label: position for position, label in enumerate(own)}
    for batch in batches:
        images, labels = [], []
        for each in batch:
            try:
                labels.append(wanted(each) if wanted else torch.tensor([own[each.label]]))
                images.append(each)
            except DataError as error:
                broken[each.index] = str(error)
        if not images:
            continue
        with precision.autocast():
            answers = guesser.guess(images, labels)
        yield images, [_relabel(each, of_data, dataset) for each in answers]


def _relabel(
    detections: Detections, of_data: dict[int, int], dataset: DetectionDataset
) -> Detections:
    """Detections with the labels of the data; those of classes that it does not have, which no
    image is of, get labels past its own: such a guess is wrong and keeps its place."""
    extra = len(dataset.class_names)
    labels = [of_data.get(label, extra) for label in detections.labels.tolist()]
    detections.labels = torch.tensor(labels, dtype=torch.int64)
    detections.class_names = [*dataset.class_names, "another class"]
    detections.category_ids = [*dataset.category_ids, max(dataset.category_ids) + 1]
    return detections
