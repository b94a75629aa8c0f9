"""A COCO evaluation, from files or columns to the 12 numbers: resdet's and those of others."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation import EvalSettings
from resdet.evaluation.coco import CocoEvaluator, evaluate_coco
from resdet.evaluation.coco_detections import IOU_TYPES, DetectionTable, read_detections
from tools.benchmark.evaluation_data import EvalFiles, write_eval_files
from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, Step, take_turns

logger = logging.getLogger("resdet")

REFEREE = "pycocotools"
PEERS = {
    REFEREE: ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    "faster-coco-eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    "ultrafast-pycocotools": ("ultrafast_pycocotools", "ultrafast_pycocotools", "COCOeval"),
    "hotcoco": ("hotcoco", "hotcoco", "COCOeval"),
}
"""Packages: the modules of COCO and of the evaluator, and the evaluator's name."""
RESDET = "resdet"
FROM_COLUMNS = " (columns)"
"""Ends the names of contenders that get arrays in memory: resdet as in a training's validation, and
hotcoco as its users write it."""
WITH_COLUMNS = ("hotcoco", RESDET)


@dataclass
class Agreement:
    """How near the 12 numbers of a contender are to those of the first."""

    name: str
    first: str
    largest_difference: float | None
    """None where one of the two failed."""
    equal_as_printed: bool
    """To the 3 decimals that evaluations print."""

    def words(self) -> str:
        if self.largest_difference is None:
            return f"{self.name}: no numbers"
        equal = "equal" if self.equal_as_printed else "NOT equal"
        return (
            f"{self.name}: {equal} to {self.first} to the last printed digit, largest difference "
            f"{self.largest_difference:.1e}"
        )


@dataclass
class EvalTimes:
    """What was found for one kind."""

    kind: str
    rows: list[dict[str, Any]]
    """As `report` returns them; the ratio is to the first contender."""
    agreement: list[Agreement]
    """Of all but the first."""


def benchmark_eval(
    annotations: str | Path,
    *,
    kinds: Sequence[str] = IOU_TYPES,
    images: int = 5000,
    detections: int = 100,
    rounds: int = 3,
    seed: int = 0,
    against: Sequence[str] | None = None,
    out: str | Path | None = None,
) -> list[EvalTimes]:
    """Time evaluations of the objects in `annotations` and print a table per kind.

    Contenders are resdet and those of `PEERS` that are installed, or of them `against`; resdet and
    hotcoco also take part from columns in memory. Ratios and differences are to the first.

    At most `images` images with `detections` seeded detections each (see `evaluation_data`); a
    round is one evaluation from the two files. Each contender runs in a process of its own, whose
    peak resident memory is shown; the files are made before. With `out`, writes
    benchmark_eval_<kind>.json and .png there. Raises UserError for a file that cannot be used.
    """
    unknown = [kind for kind in kinds if kind not in IOU_TYPES]
    if unknown or not kinds:
        raise UserError(f"kinds {list(kinds)}: the choices are bbox and segm")
    absent = [name for name in against or () if name not in PEERS or not is_installed(name)]
    if absent:
        installed = ", ".join(filter(is_installed, PEERS))
        raise UserError(f"--against {', '.join(absent)}: choose from those installed: {installed}")
    if min(images, detections, rounds) < 1:
        raise UserError("images, detections and rounds are numbers from 1")
    with tempfile.TemporaryDirectory(prefix="resdet_eval_") as name:
        folder = Path(name)
        logger.info(f"making {detections} detections for each image of {annotations}")
        files = write_eval_files(
            annotations, folder, kinds=kinds, images=images, detections=detections, seed=seed
        )
        names = [*(against or filter(is_installed, PEERS)), RESDET]
        names += [name + FROM_COLUMNS for name in WITH_COLUMNS if name in names]
        return [_time_kind(kind, files, names, folder, rounds, seed, out) for kind in kinds]


def _time_kind(
    kind: str,
    files: EvalFiles,
    names: Sequence[str],
    folder: Path,
    rounds: int,
    seed: int,
    out: str | Path | None,
) -> EvalTimes:
    numbers = {name: folder / f"{kind}_{name}.json" for name in names}
    contenders = [
        Contender(
            name,
            f"{__name__}:make_evaluation",
            {
                "name": name,
                "ground_truth": str(files.ground_truth),
                "results": str(files.results[kind]),
                "kind": kind,
                "numbers": str(numbers[name]),
            },
        )
        for name in names
    ]
    # The first evaluation counts: a user's process makes one. Imports are made before.
    timings = take_turns(contenders, rounds=rounds, steps=1, warmup=0, device="cpu")
    agreement = [_agree(name, names[0], numbers) for name in names[1:]]
    rows = report(
        [Row(timing, files.images, is_ours=timing.name.startswith(RESDET)) for timing in timings],
        title=f"COCO evaluation of {kind}: {files.images} images, {files.detections} detections",
        unit="images",
        name=f"eval_{kind}",
        out=out,
        details={
            "kind": kind,
            "objects": files.objects,
            "detections": files.detections,
            "seed": seed,
            "agreement": [asdict(each) for each in agreement],
        },
    )
    for each in agreement:
        print(each.words())
    return EvalTimes(kind, rows, agreement)


def _agree(name: str, first: str, files: dict[str, Path]) -> Agreement:
    if not (files[first].exists() and files[name].exists()):
        return Agreement(name, first, None, False)
    expected, numbers = (json.loads(files[key].read_text()) for key in (first, name))
    pairs = list(zip(expected, numbers, strict=True))
    return Agreement(
        name,
        first,
        max(abs(a - b) for a, b in pairs),
        all(f"{a:.3f}" == f"{b:.3f}" for a, b in pairs),
    )


def is_installed(name: str) -> bool:
    """Whether resdet or a package of `PEERS` is there."""
    return name == RESDET or find_spec(PEERS[name][0].partition(".")[0]) is not None


def make_evaluation(name: str, ground_truth: str, results: str, kind: str, numbers: str) -> Step:
    """An evaluation by resdet or, as its users write it, by a package of `PEERS`; the 12 numbers
    go into the file `numbers`."""
    if name == RESDET:
        return lambda: _write(
            numbers, list(evaluate_coco(ground_truth, results, kinds=[kind])[kind].values())
        )
    if name.endswith(FROM_COLUMNS):
        truth = read_annotations(ground_truth, [], outlines=kind == "segm")
        table, _ = read_detections(results, truth, (kind,))
        if name.startswith(RESDET):
            evaluator = _filled_evaluator(truth, table, kind)
            return lambda: _write(numbers, list(evaluator.compute().summary[kind].values()))
        return _hotcoco_from_columns(truth, table, kind, numbers)
    coco_module, eval_module, class_name = PEERS[name]
    coco_class = importlib.import_module(coco_module).COCO
    eval_class: Any = getattr(importlib.import_module(eval_module), class_name)

    def evaluate() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco_class(ground_truth)
            work = eval_class(truth, truth.loadRes(results), kind)
            _finish(work, numbers)

    return evaluate


def _finish(work: Any, numbers: str) -> None:
    """Match, accumulate and write the 12 numbers of a COCOeval."""
    work.evaluate()
    work.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        work.summarize()
    _write(numbers, [float(value) for value in work.stats[:12]])


def _filled_evaluator(truth: AnnotationTable, table: DetectionTable, kind: str) -> CocoEvaluator:
    """resdet's evaluator after the last batch of a validation: a piece of each column per image."""
    evaluator = CocoEvaluator(truth, EvalSettings((kind,)))
    state = evaluator.state
    order = np.argsort(table.images, kind="stable")
    ends = np.searchsorted(table.images[order], np.arange(1, len(truth.image_ids)))
    for rows in np.split(order, ends):
        state.images.append(table.images[rows])
        state.labels.append(table.labels[rows])
        state.scores.append(table.scores[rows])
        state.boxes.append(table.boxes[rows])
        if table.rles is not None and table.mask_areas is not None and len(rows):
            state.mask_areas.append(table.mask_areas[rows])
            state.codes.append("\n".join(table.rles[row]["counts"] for row in rows.tolist()))
    return evaluator


def _hotcoco_from_columns(
    truth: AnnotationTable, table: DetectionTable, kind: str, numbers: str
) -> Step:
    """hotcoco alone on the same arrays, without checks."""
    hotcoco = importlib.import_module("hotcoco")
    image_ids, category_ids = np.array(truth.image_ids.tolist()), np.array(truth.category_ids)
    images = [
        {"id": image, "height": height, "width": width}
        for image, (height, width) in zip(image_ids.tolist(), truth.sizes.tolist(), strict=True)
    ]
    names = zip(truth.category_ids, truth.class_names, strict=True)
    categories = [{"id": category, "name": name} for category, name in names]
    ids = (image_ids[table.images], category_ids[table.labels])
    rows = np.column_stack((ids[0], table.boxes, table.scores, ids[1])).astype(np.float64)
    masks = truth.rles if kind == "segm" else None

    def evaluate() -> None:
        gt = hotcoco.COCO.from_arrays(
            images,
            categories,
            image_ids[truth.image_of],
            category_ids[truth.labels],
            truth.boxes_xywh,
            area=truth.areas,
            iscrowd=truth.crowd.astype(np.int64),
            segmentation=masks,
        )
        dt = gt.load_res(rows, segmentation=table.rles)
        if table.rles is not None:
            areas = hotcoco.mask.area(table.rles).astype(np.float64)
            dt.update_anns(ids=np.arange(1, len(rows) + 1), area=areas)
        _finish(hotcoco.COCOeval(gt, dt, kind), numbers)

    return evaluate


def _write(path: str, numbers: list[float]) -> None:
    Path(path).write_text(json.dumps(numbers), encoding="utf-8")
