"""What `resdet eval-coco` runs: evaluates a run, a checkpoint, or a file of detections."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from resdet import hardware
from resdet.config.detection import DetectionConfig
from resdet.engine.distributed import Processes
from resdet.engine.evaluate_detection import (
    Validation,
    check_classes,
    evaluate,
    name_classes,
    prepare_truth,
)
from resdet.errors import UserError
from resdet.evaluation.coco import (
    KINDS,
    CocoResult,
    check_max_dets,
    evaluate_coco_full,
)
from resdet.evaluation.coco_report import print_tables, write_report
from resdet.factory import build_trained, build_val_data
from resdet.interop.weights import read_weights
from resdet.models.predict import precision_of

logger = logging.getLogger("resdet")


def eval_coco_command(
    *,
    run: str | Path | None = None,
    overrides: Sequence[str] = (),
    detections: str | Path | None = None,
    annotations: str | Path | None = None,
    kinds: Sequence[str] | None = None,
    max_dets: Sequence[int] | None = None,
    backend: str | None = None,
    out: str | Path | None = None,
    device: str | None = None,
) -> CocoResult:
    """Evaluate, print the tables, and write eval.json, per_class.csv and the PR curves.

    Either `run` (a run folder, a checkpoint or a published detector by name, evaluated on its
    data.val, with config `overrides` and on `device`) or `detections` with `annotations` (files;
    needs no torch). What is None is taken from the run's config, or is the default of
    `evaluate_coco`. `out` is the run's folder by default, or `runs/eval_<name of the detections
    file or of the published detector>`. Raises UserError for a wrong combination.
    """
    if (run is None) == (detections is None):
        raise UserError(
            "give a run folder or checkpoint, or --detections R.json --annotations GT.json"
        )
    if run is not None:
        if annotations is not None:
            raise UserError(
                "--annotations belongs to --detections; for a run give data.val.annotations=… "
                "and data.val.images=…"
            )
        result = _evaluate_run(run, [*overrides], kinds, max_dets, backend, device)
        from resdet.interop.weights import is_published

        if is_published(str(run)):
            folder = Path("runs") / f"eval_{re.sub(r'[^-.A-Za-z0-9]+', '_', str(run))}"
        else:
            folder = Path(run) if Path(run).is_dir() else Path(run).parent
    else:
        assert detections is not None
        if annotations is None:
            raise UserError(
                "--detections needs --annotations GT.json, the ground truth in COCO format"
            )
        for given, name in ((overrides, "key=value"), (device, "--device")):
            if given:
                raise UserError(f"{name} belongs to a run; with --detections nothing is computed")
        result = evaluate_coco_full(
            annotations,
            detections,
            kinds=kinds,
            backend=backend or "fast",
            max_dets=max_dets or (1, 10, 100),
        )
        folder = Path("runs") / f"eval_{Path(detections).stem}"
    paths = write_report(result, out or folder)
    print_tables(result)
    print(f"\nwritten to {paths[0].parent}: {', '.join(path.name for path in paths)}")
    return result


def _evaluate_run(
    run: str | Path,
    overrides: list[str],
    kinds: Sequence[str] | None,
    max_dets: Sequence[int] | None,
    backend: str | None,
    device: str | None,
) -> CocoResult:
    """The run on its data.val, its validation loss printed; `kinds` picks among what it finds."""
    from resdet.interop.weights import read_weights

    if kinds is not None:
        config = read_weights(str(run)).config or {}
        masks = (config.get("model", {}).get("roi", {}).get("mask_head")) is not None
        possible = KINDS if masks else ("bbox",)
        if not kinds or not set(kinds) <= set(possible):
            raise UserError(f"kinds {list(kinds)}: {run} finds {' and '.join(possible)}")
    # Named options come last, as the more explicit.
    if max_dets is not None:
        overrides.append(f"eval.max_dets={list(check_max_dets(max_dets))}")
    if backend is not None:
        overrides.append(f"eval.backend={backend}")
    _, validation = evaluate_run(run, overrides, device=device)
    if validation.loss is not None:
        parts = "  ".join(f"{name} {value:.4f}" for name, value in validation.losses.items())
        print(f"validation loss {validation.loss:.4f}  ({parts})\n")
    found: CocoResult = validation.result
    for kind in set(found.summary) - set(found.summary if kinds is None else kinds):
        for numbers in (found.summary, found.per_class, found.pr_curves):
            del numbers[kind]
    return found


def evaluate_run(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    device: str | None = None,
    strict: bool = False,
) -> tuple[DetectionConfig, Validation]:
    """Evaluate a run folder (best.pt, else last.pt) or a checkpoint on `data.val`.

    Averaged weights are used where the checkpoint keeps them. Overrides go on top of the run's own
    config. Writes nothing.
    """
    loaded = read_weights(str(path))
    model = build_trained(loaded, overrides)
    config = model.config
    processes = Processes(0, 1, 1, hardware.choose_device(device, 0))
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    model.to(processes.device)
    precision = precision_of(model)
    model.place(processes.device, precision.parameters)
    dataset = build_val_data(config, strict=strict)
    if dataset is None or config.data.val is None:
        raise UserError(
            f"{loaded.source}: its config has no data.val; give data.val.images=DIR "
            "data.val.annotations=FILE"
        )
    source = str(config.data.val.annotations)
    name_classes(model, dataset, source)
    check_classes(dataset, model.class_names, source, fewer=True)
    truth = prepare_truth(dataset, masks=model.has_masks, source=source)
    logger.info(f"{loaded.source}: evaluating on {len(dataset)} images of {source}")
    validation = evaluate(
        model,
        dataset,
        processes=processes,
        precision=precision,
        batch_size=config.eval.batch_size,
        max_dets=config.eval.max_dets,
        backend=config.eval.backend,
        val_loss=config.eval.val_loss,
        workers=hardware.default_workers(config.data.workers, 1),
        truth=truth,
    )
    assert validation is not None, "nobody asked to stop"
    return config, validation
