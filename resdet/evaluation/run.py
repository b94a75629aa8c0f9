"""What `resdet eval-coco` runs: evaluates a run, a checkpoint, or a file of detections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from resdet.errors import UserError
from resdet.evaluation.coco import KINDS, CocoResult, check_max_dets, evaluate_coco_full
from resdet.evaluation.coco_report import print_tables, write_report


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
    from resdet.engine.evaluate import evaluate_run
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
