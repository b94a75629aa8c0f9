"""A COCO evaluation, from two files to the 12 numbers: resdet's and those of other packages."""

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

from resdet.errors import UserError
from resdet.evaluation.coco import evaluate_coco
from resdet.evaluation.coco_detections import IOU_TYPES
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


@dataclass
class Agreement:
    """How near the 12 numbers of a contender are to pycocotools'."""

    name: str
    largest_difference: float | None
    """None where one of the two failed."""
    equal_as_printed: bool
    """To the 3 decimals that pycocotools prints."""

    def words(self) -> str:
        if self.largest_difference is None:
            return f"{self.name}: no numbers"
        equal = "equal" if self.equal_as_printed else "NOT equal"
        return (
            f"{self.name}: {equal} to {REFEREE} to the last printed digit, largest difference "
            f"{self.largest_difference:.1e}"
        )


@dataclass
class EvalTimes:
    """What was found for one kind."""

    kind: str
    rows: list[dict[str, Any]]
    """As `report` returns them; the ratio is to pycocotools."""
    agreement: list[Agreement]
    """Of all but pycocotools."""


def benchmark_eval(
    annotations: str | Path,
    *,
    kinds: Sequence[str] = IOU_TYPES,
    images: int = 5000,
    detections: int = 100,
    rounds: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[EvalTimes]:
    """Time evaluations of the objects in `annotations` and print a table per kind.

    Contenders are resdet and those of `PEERS` that are installed.

    At most `images` images with `detections` seeded detections each (see `evaluation_data`); a
    round is one evaluation from the two files. Each contender runs in a process of its own, whose
    peak resident memory is shown; the files are made before. With `out`, writes
    benchmark_eval_<kind>.json and .png there. Raises UserError for a file that cannot be used.
    """
    unknown = [kind for kind in kinds if kind not in IOU_TYPES]
    if unknown or not kinds:
        raise UserError(f"kinds {list(kinds)}: the choices are bbox and segm")
    if min(images, detections, rounds) < 1:
        raise UserError("images, detections and rounds are numbers from 1")
    with tempfile.TemporaryDirectory(prefix="resdet_eval_") as name:
        folder = Path(name)
        logger.info(f"making {detections} detections for each image of {annotations}")
        files = write_eval_files(
            annotations, folder, kinds=kinds, images=images, detections=detections, seed=seed
        )
        return [_time_kind(kind, files, folder, rounds, seed, out) for kind in kinds]


def _time_kind(
    kind: str, files: EvalFiles, folder: Path, rounds: int, seed: int, out: str | Path | None
) -> EvalTimes:
    names = [name for name in (*PEERS, RESDET) if is_installed(name)]
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
    agreement = [_agree(name, numbers) for name in names if name != REFEREE]
    rows = report(
        [Row(timing, files.images, is_ours=timing.name == RESDET) for timing in timings],
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


def _agree(name: str, files: dict[str, Path]) -> Agreement:
    if not (files[REFEREE].exists() and files[name].exists()):
        return Agreement(name, None, False)
    expected, found = (json.loads(files[each].read_text()) for each in (REFEREE, name))
    pairs = list(zip(expected, found, strict=True))
    return Agreement(
        name,
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

        def evaluate() -> list[float]:
            return list(evaluate_coco(ground_truth, results, kinds=[kind])[kind].values())

    else:
        coco_module, eval_module, evaluator = PEERS[name]
        coco_class = importlib.import_module(coco_module).COCO
        eval_class: Any = getattr(importlib.import_module(eval_module), evaluator)

        def evaluate() -> list[float]:
            with contextlib.redirect_stdout(io.StringIO()):
                truth = coco_class(ground_truth)
                work = eval_class(truth, truth.loadRes(results), kind)
                work.evaluate()
                work.accumulate()
                work.summarize()
            return [float(value) for value in work.stats[:12]]

    return lambda: _write(numbers, evaluate())


def _write(path: str, numbers: list[float]) -> None:
    Path(path).write_text(json.dumps(numbers), encoding="utf-8")
