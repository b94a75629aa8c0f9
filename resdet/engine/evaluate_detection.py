"""Validation: metrics and losses of a detector on a data set, over all processes."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from resdet import hardware
from resdet.config.detection import DetectionConfig
from resdet.config.localization import LocalizationConfig
from resdet.data.detection.batches import Batch
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.split import SPLIT_FILE, Split
from resdet.engine import distributed, pictures
from resdet.engine.broken import judge
from resdet.engine.distributed import Processes
from resdet.engine.eval_batches import eval_batches, networks_of
from resdet.engine.eval_images import Images, images_of
from resdet.engine.run_folder import stored_split
from resdet.engine.signals import StopRequest
from resdet.engine.validation import Validation, joined, share
from resdet.errors import UserError
from resdet.evaluation import EvalSettings, Evaluator, LeavesOut, Result, build_evaluator
from resdet.factory import build_val_data
from resdet.factory.imports import naming_imports
from resdet.hardware import Precision
from resdet.inference.combined import CombinedDetector
from resdet.inference.exported import AnyDetector
from resdet.inference.loading import join_members, load_members
from resdet.inference.sizes import Prepared
from resdet.interop.loaded import are_numbered, without_names
from resdet.models.predict import precision_of
from resdet.structures import Detections

logger = logging.getLogger("resdet")

PROGRESS_S = 30.0


class _Gathered(NamedTuple):
    """What one process has beside its evaluator."""

    names: tuple[str, ...]
    """Of the losses."""
    losses: list[tuple[int, int, list[float]]]
    """(first image's index, images, losses) of each batch."""
    pictures: list[tuple[int, str, Detections]]
    """(index, path, detections) of the first images."""


def evaluate(
    model: AnyDetector,
    dataset: DetectionDataset,
    evaluator: Evaluator,
    *,
    processes: Processes,
    precision: Precision,
    batch_size: int = 1,
    val_loss: bool = True,
    workers: int = 0,
    stop: StopRequest | None = None,
    num_pictures: int = 0,
) -> Validation | None:
    """Metrics and losses; the same in every process.

    Each process takes its share of the images, and their detections meet in the main one. None
    where a stop was requested in some process meanwhile. Losses are those of one detector at its
    test size; an ensemble and an exported model have none.
    """
    start = time.perf_counter()
    networks = networks_of(model)
    was_training = model.training
    model.eval()
    for network in networks:
        distributed.share_buffers(network, processes)
    broken: dict[int, str] = {}
    images = images_of(dataset, model.tile_scale)
    batches = eval_batches(
        *(model, dataset, processes),
        batch_size=batch_size,
        workers=workers,
        broken=broken,
        share=images.share(processes.rank, processes.world_size),
    )
    val_loss = val_loss and dataset.table.has_annotations and len(networks) == 1
    with closing(batches):
        gathered = _run_model(
            *(model, dataset, images, batches, evaluator),
            *(processes, precision, val_loss, stop, num_pictures),
        )
    model.train(was_training)
    if distributed.any_process(bool(stop), processes):
        return None
    parts = distributed.gather_to_main((evaluator.state, gathered, broken), processes)
    validation = None
    if processes.is_main:
        for state, *_ in parts[1:]:
            evaluator.merge(state)
        shown = sorted((p for _, one, _ in parts for p in one.pictures), key=lambda p: p[0])
        draw = partial(pictures.draw_predictions, dataset.untiled, shown)
        names = next((one.names for _, one, _ in parts if one.names), ())
        losses = _mean_losses(names, [row for _, one, _ in parts for row in one.losses])
        broken = joined(own for *_, own in parts)
        broken = {images.position(index): why for index, why in reversed(broken.items())}
        result = compute_without(evaluator, dataset.untiled, broken)
        validation = Validation(result, losses, time.perf_counter() - start, draw, broken)
    return share(validation, processes)


def compute_without(
    evaluator: Evaluator, dataset: DetectionDataset, broken: Mapping[int, str]
) -> Result:
    """The metric of the images that could be read; the others are counted and named in it."""
    ids = [dataset.image_ids[position] for position in broken]
    if ids and isinstance(evaluator, LeavesOut):
        evaluator.leave_out(ids)
    return evaluator.compute().without(list(broken.values()))


def make_evaluator(
    config: DetectionConfig,
    model: AnyDetector,
    dataset: DetectionDataset,
    kinds: Sequence[str] | None = None,
) -> Evaluator:
    """The metric of the config, for boxes, and for masks where the model has them; or for `kinds`
    of these. UserError for others."""
    iou_types: tuple[str, ...] = ("bbox", "segm") if model.has_masks else ("bbox",)
    if kinds is not None:
        if not kinds or not set(kinds) <= set(iou_types):
            raise UserError(f"kinds {list(kinds)}: the model predicts {' and '.join(iou_types)}")
        iou_types = tuple(kinds)
    section = config.eval
    settings = EvalSettings(
        iou_types, tuple(section.max_dets), section.backend, section.overlap, section.blacklist
    )
    with naming_imports(config):
        return build_evaluator(section.metric, dataset.table, settings)


@hardware.settings_restored()
def evaluate_run(
    path: str | Path | Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    metrics: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    device: str | None = None,
    precision: str | None = None,
    strict: bool = False,
) -> tuple[DetectionConfig, Validation]:
    """Evaluate a run folder (best.pt, else last.pt) or a checkpoint on `data.val`.

    An exported model is evaluated on the `data.val` of the config in its description. Several runs
    are an ensemble, on the data and by the thresholds of the first. Averaged
    weights are used where a checkpoint keeps them. Overrides go on top of each run's own config.
    `metrics` are those to choose from, the config's if it is among them, else the first; None is
    the config's. `kinds` are bbox and segm, `precision` as in `resdet.load`. Writes nothing.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    models, sources = load_members(paths, overrides)
    config = models[0].config
    processes = Processes(0, 1, 1, hardware.choose_device(device, 0))
    hardware.set_threads(config.train.threads, None)
    dataset, source = val_data_of_run(
        config,
        paths[0],
        sources[0],
        lambda stored: build_val_data(
            config, stored=stored, masks="segm" in (kinds or ("segm",)), strict=strict
        ),
    )
    name_classes(models, dataset, source)
    check_classes(dataset, models[0].class_names, source, fewer=True)
    model = join_members(models, sources)
    model.to(processes.device)
    chosen = precision_of(model, precision)
    model.place(processes.device, chosen.parameters)
    logger.info(
        f"{' + '.join(sources)}: evaluating on {len(dataset.untiled)} images of {source}, "
        f"precision {chosen.name} ({chosen.reason})"
    )
    if metrics is not None and config.eval.metric not in metrics:
        section = config.eval.model_copy(update={"metric": metrics[0]})
        config = config.model_copy(update={"eval": section})
    validation = evaluate(
        model,
        dataset,
        make_evaluator(config, model, dataset, kinds),
        processes=processes,
        precision=chosen,
        batch_size=config.eval.batch_size,
        val_loss=config.eval.val_loss,
        workers=hardware.default_workers(config.data.workers, 1),
    )
    validation = judge(validation, len(dataset.untiled), config, paths, strict)
    validation.result.log_remarks()
    return config, validation


def val_data_of_run(
    config: DetectionConfig | LocalizationConfig,
    path: str | Path,
    name: str,
    build: Callable[[Split | None], DetectionDataset | None],
) -> tuple[DetectionDataset, str]:
    """The validation images of the run at `path`, which messages call `name`; and their file.

    `build` makes them of the split that the run has stored. UserError without data.val.
    """
    stored = stored_split(path) if config.data.split is not None else None
    dataset = build(stored)
    if dataset is None or config.data.val_files is None:
        raise UserError(
            f"{name}: its config has no data.val; give data.val.images=DIR "
            "data.val.annotations=FILE"
        )
    if config.data.split is not None and stored is None:
        logger.info(f"{name}: no {SPLIT_FILE} beside it; the images of data.split are chosen again")
    return dataset, str(config.data.val_files.annotations)


@torch.no_grad()
def _run_model(
    model: AnyDetector,
    dataset: DetectionDataset,
    images: Images,
    batches: Iterable[tuple[Batch, list[Prepared] | None]],
    evaluator: Evaluator,
    processes: Processes,
    precision: Precision,
    val_loss: bool,
    stop: StopRequest | None,
    num_pictures: int,
) -> _Gathered:
    """This process's images."""
    gathered = _Gathered((), [], [])
    losses: list[Tensor] = []
    rows: list[tuple[int, int]] = []
    names: tuple[str, ...] = ()
    # the label that each class of the data has in the model, and the other way round
    of_model = torch.tensor([model.class_names.index(name) for name in dataset.class_names])
    on_device = of_model.to(processes.device)
    of_data = torch.full((model.num_classes,), -1)
    of_data[of_model] = torch.arange(len(of_model))
    reported, done = time.perf_counter(), 0
    for batch, prepared in batches:
        if stop:
            break
        with precision.autocast():
            if isinstance(model, CombinedDetector):
                assert prepared is not None, "what eval_batches gives it"
                predictions = model.predict_prepared(prepared, batch.original_sizes)
            else:
                batch = batch.to(processes.device)
                predictions = model.infer(batch.images, batch.original_sizes)
            if val_loss:
                batch = batch.to(processes.device)
                targets = replace(batch.targets, labels=on_device[batch.targets.labels])
                named = networks_of(model)[0](batch.images, targets, seed=0, step=0)
                names = tuple(named)
                losses.append(torch.stack([value.double() for value in named.values()]))
                rows.append((batch.indices[0], len(batch.indices)))
        predictions = [_relabel(one.cpu(), of_data, dataset) for one in predictions]
        for position, image_id, path, one in images.complete(batch, predictions):
            evaluator.update([image_id], [one])
            if position < num_pictures:
                gathered.pictures.append((position, path, one))
        done += len(predictions)
        if time.perf_counter() - reported > PROGRESS_S:
            reported = time.perf_counter()
            what = "images" if dataset.tiles is None else "tiles"
            logger.info(f"validation: {done * processes.world_size} of {len(dataset)} {what}")
    values = torch.stack(losses).tolist() if losses else []
    gathered.losses.extend((*row, one) for row, one in zip(rows, values, strict=True))
    return gathered._replace(names=names)


def _relabel(detections: Detections, of_data: Tensor, dataset: DetectionDataset) -> Detections:
    """Detections with the labels of the data; `of_data` (K of the model,) is -1 for classes that
    the data does not have, whose detections are left out. The same class may have another id in
    this file than where the model was trained."""
    labels = of_data[detections.labels]
    known = labels >= 0
    detections = detections[known]
    detections.labels = labels[known]
    detections.class_names = list(dataset.class_names)
    detections.category_ids = list(dataset.category_ids)
    return detections


def _mean_losses(
    names: tuple[str, ...], rows: list[tuple[int, int, list[float]]]
) -> dict[str, float]:
    """Mean over the images, added in the data set's order: alike for any number of processes."""
    total = sum(count for _, count, _ in rows)
    sums = [0.0] * len(names)
    for _, count, values in sorted(rows):
        sums = [s + count * value for s, value in zip(sums, values, strict=True)]
    return {name: s / total for name, s in zip(names, sums, strict=True)} if total else {}


def name_classes(models: Sequence[AnyDetector], dataset: DetectionDataset, source: str) -> None:
    """Give models the names of as many classes in the data where they share none of them: files of
    other toolkits hold no names, and theirs are `class 1` and so on, in the order of the labels.
    Members of an ensemble with the classes of the first, in whatever order, are named as that."""
    there, first = list(dataset.class_names), list(models[0].class_names)
    for model in models:
        here = list(model.class_names)
        if len(here) != len(there) or set(here) & set(there):
            continue
        logger.info(
            f"none of the model's {len(here)} classes ({', '.join(here[:3])}, …) is in {source}; "
            f"they are taken by position: {', '.join(there[:8])}{', …' if len(there) > 8 else ''}"
        )
        names = dict(zip(first if set(here) == set(first) else here, there, strict=True))
        model.class_names = [names[name] for name in here]


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
    if are_numbered(class_names):
        raise UserError(f"{source}: {without_names(class_names, dataset.class_names)}")
    raise UserError(
        f"{source}: its categories are not the model's {len(class_names)} classes"
        + (f"; it lacks {', '.join(missing[:8])}" if missing else "")
        + (f"; it adds {', '.join(extra[:8])}" if extra else "")
        + ("" if missing or extra else "; they come in another order")
        + ". Give data.classes as the list of names that both have"
    )
