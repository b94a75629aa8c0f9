"""What `resdet check-data` runs: reading, a look at images and objects, and what comes of it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resdet.commands.data_paths import config_of
from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.find import own_path
from resdet.config.loading import AnyConfig
from resdet.data.detection.annotated import read_images
from resdet.data.detection.batches import collate
from resdet.data.detection.checks import check_presence
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.detection.repair import LEFT_OUT, keep_usable, repair
from resdet.data.detection.writers import coco
from resdet.engine.detection import largest_area
from resdet.engine.estimate import describe_batch, free_memory, largest_batch, memory_of
from resdet.engine.evaluate_detection import check_classes
from resdet.errors import UserError, printable
from resdet.factory import (
    build_classification_train_data,
    build_classification_val_data,
    build_data,
    build_model,
)
from resdet.factory.classification_data import check_val
from resdet.factory.imports import import_modules, naming_imports
from resdet.factory.localization_data import build_localization_data
from resdet.factory.survey import survey_data
from resdet.files.findings import Finding, summarize_findings
from resdet.files.writing import check_folder, write_text
from resdet.hardware import choose_device, choose_precision
from resdet.report.data import DataStatistics
from resdet.report.page import render
from resdet.report.survey import data_report, data_statistics
from resdet.viz.tables import print_table

logger = logging.getLogger("resdet")

LISTED = 40
"""Classes in the table on the console."""


def check_data(
    paths: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    fix: str | None = None,
    html: str | None = None,
    images: bool = True,
) -> list[Finding]:
    """Check the data of a config, or those at some paths; returns all findings, which are logged.

    Args:
        paths: see `config_of`.
        overrides: `key=value` on top of the config.
        fix: a COCO file to write with what could be corrected.
        html: a page to write.
        images: decode every image.
    Raises:
        UserError: the data can't be used at all, or training and validation do not fit together;
            everything else has been reported then.
    """
    fixed, page = (None if out is None else own_path(out) for out in (fix, html))
    if fixed is not None:
        _check_fix(fixed)
    if page is not None:
        check_folder(page.parent, "--html")
    config = config_of(paths, overrides)
    if fixed is not None and not isinstance(config, DetectionConfig):
        raise UserError("--fix corrects boxes; give the data of a detector")
    if config.imports and Path(paths[0]).is_file():  # a stored config never imports code
        import_modules(config.imports, Path(paths[0]).parent)
    with naming_imports(config):
        train, val = _read(config, images)
    survey = survey_data(config, train, val)
    survey.log()
    if images and isinstance(config, DetectionConfig) and len(paths) == 1:
        _log_batch_size(config, train)
    findings = [*_findings(train), *_findings(val), *survey.findings]
    statistics = data_statistics(survey)
    for part in statistics:
        _print(part)
    if fixed is not None:
        assert isinstance(config, DetectionConfig)
        _write_fixed(config, train, val, fixed)
    if page is not None:
        report = data_report(config, survey, statistics, findings)
        print(f"written: {write_text(page, render(report))}")
    kinds = len(summarize_findings(findings))
    print(f"{len(findings)} finding(s) of {kinds} kind(s)" if findings else "no findings")
    if isinstance(config, DetectionConfig) and val is not None and config.data.val is not None:
        check_classes(val, train.class_names, str(config.data.val.annotations))
    return findings


def _read(config: AnyConfig, images: bool) -> tuple[Any, Any]:
    """Training and validation data; None without validation."""
    if isinstance(config, ClassificationConfig):
        train = build_classification_train_data(config, decode_all=images)
        val = None
        if config.data.val is not None:
            val = build_classification_val_data(
                config, classes=train.class_names, decode_all=images
            )
            check_val(train, val, strict=False, contents=images)
        return train, val
    if isinstance(config, DetectionConfig):
        data = build_data(config, decode_all=images)
    else:
        data = build_localization_data(config, decode_all=images)
    return data.train, data.val


def _log_batch_size(config: DetectionConfig, train: DetectionDataset) -> None:
    """How many training images the memory of this machine takes; of a network that the config
    names, with random weights."""
    device = choose_device(None, 0)
    free = free_memory(device)
    if free is None or config.model.backbone.name is None:
        return
    names, ids = train.class_names, train.category_ids
    model = build_model(config, class_names=names, category_ids=ids).to(device)
    batch = collate([train[0, 0]], multiple=model.size_divisibility).to(device)
    height, width = batch.images.images.shape[-2:]
    largest = largest_area(config, train.sizes, model.size_divisibility)
    estimate = memory_of(
        model,
        config,
        lambda: model(batch.images, batch.targets, seed=0, step=0),
        scale=max(1.0, largest / (height * width)),
        precision=choose_precision(config.train.precision, device),
        is_averaged=config.train.ema_decay is not None,
    )
    logger.info(describe_batch(largest_batch(estimate, 1, free), free))


def _findings(data: Any) -> list[Finding]:
    return list(getattr(data, "findings", ()))


def _print(part: DataStatistics) -> None:
    print(f"\n{printable(part.name)}")
    for fact in part.facts:
        note = f" ({fact.note})" if fact.note else ""
        print(printable(f"  {fact.name}: {fact.value}{note}"))
    if part.classes is None:
        return
    table = part.classes
    rows = [[_cell(cell) for cell in row] for row in table.rows[:LISTED]]
    if len(table.rows) > LISTED:
        rows.append([f"… {len(table.rows) - LISTED} more", *[""] * (len(table.columns) - 1)])
    print_table("", table.columns, rows)


def _beside(path: Path) -> Path:
    """Where the corrected validation data go."""
    return path.with_name(f"{path.stem}_val{path.suffix}")


def _check_fix(path: Path) -> None:
    """UserError, before anything is read, where writing would replace something or can't work."""
    if path.suffix.lower() != ".json":
        raise UserError(f"--fix {path}: COCO's annotations are one file; give it the ending .json")
    for each in (path, _beside(path)):
        if os.path.lexists(each):
            raise UserError(f"--fix {each}: exists, and nothing is overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"--fix {path}: no such folder; make it first")
    check_folder(path.parent, "--fix")


def _write_fixed(config: DetectionConfig, train: Any, val: Any, path: Path) -> None:
    """Writes the corrected annotations of each file, without the images that reading left out, and
    prints what was done."""
    splits = {"data.train": (config.data.train, path, [train])}
    if config.data.split is not None:
        splits["data.train"][2].append(val)
    elif config.data.val is not None:
        splits["data.val"] = (config.data.val, _beside(path), [val])
    for key, (files, out, parts) in splits.items():
        read = read_images(
            files.images,
            files.annotations,
            format=files.format,
            extras=config.data.extras,
            max_pixels=config.data.max_pixels,
            key=key,
        )
        if len(set(read.folders)) > 1:
            raise UserError(f"--fix: {key} has several image folders; correct each source alone")
        there = check_presence(read.table, read.folders, [])
        unusable = np.concatenate([part.left_out for part in parts])
        usable, kept = keep_usable(there, read.folders[0], unusable)
        table, done = repair(usable)
        coco.write(table, out)
        missing = len(read.table.image_ids) - len(there.image_ids)
        total = kept + done + Counter({LEFT_OUT: missing})
        counts = ", ".join(f"{count} {what}" for what, count in total.items())
        what = f"{len(table.image_ids)} images, {len(table.labels)} objects"
        print(printable(f"written: {out}: {what}; {counts or 'nothing else to correct'}"))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
