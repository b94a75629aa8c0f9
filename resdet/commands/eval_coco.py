"""What `resdet eval-coco` runs: evaluates a run, a checkpoint, or a file of detections.

Files alone are evaluated without torch.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from resdet.commands.coco_submission import check_name, write_coco_submission
from resdet.commands.evaluate_run import check_out, check_sources, evaluate_run_on_val, write_result
from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.evaluation.coco import MAX_DETS, check_max_dets, evaluate_coco_full
from resdet.evaluation.lvis import evaluate_lvis


def eval_coco_command(
    *,
    run: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str] = (),
    detections: str | Path | None = None,
    annotations: str | Path | None = None,
    kinds: Sequence[str] | None = None,
    max_dets: Sequence[int] | None = None,
    backend: str | None = None,
    lvis: bool = False,
    submission: str | None = None,
    strict: bool = False,
    out: str | Path | None = None,
    device: str | None = None,
    precision: str | None = None,
) -> Result:
    """Evaluate, print the tables, and write eval.json, per_class.csv and the PR curves.

    Either `run` (a run folder, a checkpoint or a published detector by name, evaluated on its
    data.val, with config `overrides`, on `device` and in `precision`; a list of them is an
    ensemble) or `detections` with `annotations` (files; needs no torch). What is None is taken
    from the run's config, or is the default of `evaluate_coco`. `lvis` evaluates by LVIS's rules;
    `submission` names files for COCO's server; `strict` makes an error of whatever would be
    repaired or left out of the annotations. `out` is the run's folder, or `runs/eval_<name of the
    file, published detector or ensemble>`. UserError where they clash.
    """
    of_run = {"key=value": overrides, "--device": device, "--precision": precision}
    check_out(out, run)
    check_sources(run, detections, annotations, of_run, {})
    if lvis and (max_dets is not None or backend is not None):
        raise UserError(
            "--lvis has one backend and counts 300 detections per image; leave out --max-dets and "
            "--backend"
        )
    if submission is not None:
        check_name(submission)
        if lvis:
            raise UserError("--submission writes COCO's files; leave out --lvis")
    if run is not None:
        # Named options come last, as the more explicit.
        changes = [*overrides, *(["eval.metric=lvis"] if lvis else [])]
        if max_dets is not None:
            changes.append(f"eval.max_dets={list(check_max_dets(max_dets))}")
        if backend is not None:
            changes.append(f"eval.backend={backend}")
        result, folder = evaluate_run_on_val(
            run, changes, kinds=kinds, device=device, precision=precision, strict=strict
        )
    else:
        assert detections is not None and annotations is not None
        result = _evaluate_files(
            annotations, detections, kinds, max_dets, backend or "fast", lvis=lvis, strict=strict
        )
        folder = Path("runs") / f"eval_{Path(detections).stem}"
    folder = Path(out or folder)
    submit = partial(write_coco_submission, result, submission or "", folder, kinds)
    write_result(result, folder, submit if submission is not None else None)
    return result


def _evaluate_files(
    annotations: str | Path,
    detections: str | Path,
    kinds: Sequence[str] | None,
    max_dets: Sequence[int] | None,
    backend: str,
    *,
    lvis: bool,
    strict: bool,
) -> Result:
    if lvis:
        return evaluate_lvis(annotations, detections, kinds=kinds, strict=strict)
    return evaluate_coco_full(
        annotations,
        detections,
        kinds=kinds,
        backend=backend,
        max_dets=max_dets or MAX_DETS,
        strict=strict,
    )
