"""What `resdet predict --proposals` runs: the boxes of a per-class RPN on a data set, in a file."""

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from resdet import hardware
from resdet.config.find import holds_run
from resdet.config.localization import LocalizationConfig
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.split import Split
from resdet.data.loader import eval_loader
from resdet.data.localization.dataset import LocalizationViewsData, as_list
from resdet.engine.broken import failure
from resdet.engine.evaluate_detection import PROGRESS_S, check_classes
from resdet.engine.run_folder import stored_split
from resdet.errors import Incomplete, UserError, command_line
from resdet.factory.localization import build_trained_localizer
from resdet.factory.localization_data import (
    build_localization_train_data,
    build_localization_val_data,
)
from resdet.files.proposals import ProposalWriter
from resdet.interop.weights import read_weights
from resdet.models.localizer import Localizer
from resdet.models.predict import inference_mode, precision_of

log = logging.getLogger("resdet")

SETS = ("train", "val")


def propose_command(
    *,
    run: str | Path,
    out: str | Path,
    name: str = "train",
    overrides: Sequence[str] = (),
    device: str | None = None,
    batch_size: int = 1,
    precision: str | None = None,
) -> int:
    """Write to `out` what the per-class RPN of `run` proposes on its data set; returns 0.

    For each image of data.train or data.val, as `name` says, the `test.num_proposals` best boxes of
    the image's own class; `overrides` change the run's config, such as the paths of the data or
    test.views=dense. An image that can't be read has none, and is named. The format is that of
    `resdet.files.proposals`, which `data.proposals` of an R-CNN reads. Raises UserError for a run
    that is not a per-class RPN and for data that it does not fit; Incomplete, after the file was
    written, for more broken images than data.max_broken allows.
    """
    if Path(out).suffix != ".npz":  # by which eval-imagenet tells files from runs
        if holds_run(out) and not holds_run(run):
            raise UserError(
                f"--proposals {out}: is a run, which comes first; give {command_line('predict')} "
                f"{out} --proposals FILE.npz"
            )
        raise UserError(f"--proposals {out}: is not the name of an npz file; give {out}.npz")
    model = _load(run, overrides)
    config = model.config
    model.place(hardware.choose_device(device, 0))
    dataset = _data(config, name, stored_split(run) if config.data.split is not None else None)
    check_classes(dataset, model.class_names, dataset.table.source, fewer=True)
    chosen = precision_of(model, precision)
    log.info(
        "%s: proposals for %d images of data.%s, precision %s (%s)",
        run,
        len(dataset),
        name,
        chosen.name,
        chosen.reason,
    )
    count, broken = write_proposals(model, dataset, out, batch_size=batch_size, precision=precision)
    log.info("%s: %d proposals of %d images", out, count, len(dataset))
    key, share = f"data.{name}", config.data.max_broken
    if what := failure(broken, len(dataset), share, key=key, strict=False):
        raise Incomplete(what)
    return 0


def _load(run: str | Path, overrides: Sequence[str]) -> Localizer:
    weights = read_weights(str(run))
    if weights.kind != "localizer":
        raise UserError(
            f"--proposals: {weights.source} holds a {weights.kind}; give a run with task: "
            f"localization and model.type: rpn, as {command_line('train-det')} trains it"
        )
    model = build_trained_localizer(weights, overrides)
    if not isinstance(model, Localizer):
        raise UserError(
            f"--proposals: {weights.source} is an R-CNN, which reads proposals; give the run of "
            "a per-class RPN (model.type: rpn)"
        )
    return model


def _data(config: LocalizationConfig, name: str, stored: Split | None) -> DetectionDataset:
    if name == "train":
        return build_localization_train_data(config, stored=stored)
    dataset = build_localization_val_data(config, stored=stored)
    if dataset is None:
        raise UserError(
            "data.val is null; give data.val.images=DIR data.val.annotations=FILE, or --set train"
        )
    return dataset


def write_proposals(
    model: Localizer,
    dataset: DetectionDataset,
    out: str | Path,
    *,
    batch_size: int,
    precision: str | None = None,
) -> tuple[int, dict[int, str]]:
    """Write the model's proposals for the class of each image of a data set; returns how many, and
    why images could not be read, by position: they have none."""
    own = [model.class_names.index(name) for name in dataset.class_names]
    broken: dict[int, str] = {}
    batches = eval_loader(
        LocalizationViewsData(dataset, model.views),
        batch_size=batch_size,
        workers=hardware.default_workers(model.config.data.workers, 1),
        collate=as_list,
        broken=broken,
    )
    total, done, reported = 0, 0, time.perf_counter()
    with (
        inference_mode(model, precision),
        ProposalWriter(out, model.class_names) as writer,
        closing(batches),
    ):
        for images in batches:
            labels: list[Tensor] = [torch.tensor([own[each.label]]) for each in images]
            answers = model.propose(
                [each.views for each in images],
                [each.size for each in images],
                labels,
                model.config.test.num_proposals,
            )
            for image, answer in zip(images, answers, strict=True):
                boxes, scores, names = (
                    values.cpu().numpy() for values in (answer.boxes, answer.scores, answer.labels)
                )
                writer.add(image.image_id, image.size, boxes, scores, names)
                total += len(scores)
            done += len(images)
            if time.perf_counter() - reported > PROGRESS_S:
                reported = time.perf_counter()
                log.info("%d of %d images", done, len(dataset))
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        for index in broken:
            height, width = dataset.sizes[index].tolist()
            writer.add(dataset.image_ids[index], (height, width), *none)
    return total, broken
