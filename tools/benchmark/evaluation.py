"""A COCO evaluation, from two files to the 12 numbers: ours, faster-coco-eval's, pycocotools'."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resdet.errors import UserError
from resdet.evaluation.coco import KINDS, evaluate_coco
from tools.benchmark.evaluation_data import EvalFiles, write_eval_files
from tools.benchmark.report import Row, report
from tools.benchmark.turns import Contender, Step, take_turns

logger = logging.getLogger("resdet")

REFEREE = "pycocotools"
MAKERS = {
    REFEREE: "make_pycocotools",
    "faster-coco-eval": "make_faster_coco_eval",
    "resdet": "make_resdet",
}


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
    kinds: Sequence[str] = KINDS,
    images: int = 5000,
    detections: int = 100,
    rounds: int = 3,
    seed: int = 0,
    out: str | Path | None = None,
) -> list[EvalTimes]:
    """Time evaluations of the objects in `annotations` and print a table for each kind.

    At most `images` images with `detections` seeded detections each (see `evaluation_data`); a
    round is one evaluation from the two files. Each contender runs in a process of its own, whose
    peak resident memory is shown; the files are made before. With `out`, writes
    benchmark_eval_<kind>.json and .png there. Raises UserError for a file that cannot be used.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
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
    numbers = {name: folder / f"{kind}_{maker}.json" for name, maker in MAKERS.items()}
    contenders = [
        Contender(
            name,
            f"{__name__}:{maker}",
            {
                "ground_truth": str(files.ground_truth),
                "results": str(files.results[kind]),
                "kind": kind,
                "numbers": str(numbers[name]),
            },
        )
        for name, maker in MAKERS.items()
    ]
    # The first evaluation counts: a user's process makes one. Imports are made before.
    timings = take_turns(contenders, rounds=rounds, steps=1, warmup=0, device="cpu")
    agreement = [_agree(name, numbers) for name in MAKERS if name != REFEREE]
    rows = report(
        [Row(timing, files.images, is_ours=timing.name == "resdet") for timing in timings],
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


def make_pycocotools(ground_truth: str, results: str, kind: str, numbers: str) -> Step:
    """As its users write it; the 12 numbers go into the file `numbers`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _peer(COCO, COCOeval, ground_truth, results, kind, numbers)


def make_faster_coco_eval(ground_truth: str, results: str, kind: str, numbers: str) -> Step:
    """As its users write it; the 12 numbers go into the file `numbers`."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _peer(COCO, COCOeval_faster, ground_truth, results, kind, numbers)


def _peer(
    coco: Any, evaluator: Any, ground_truth: str, results: str, kind: str, numbers: str
) -> Step:
    def step() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco(ground_truth)
            found = truth.loadRes(results)
            work = evaluator(truth, found, kind)
            work.evaluate()
            work.accumulate()
            work.summarize()
        _write(numbers, [float(value) for value in work.stats[:12]])

    return step


def make_resdet(ground_truth: str, results: str, kind: str, numbers: str) -> Step:
    """`resdet.evaluate_coco`; the 12 numbers go into the file `numbers`."""

    def step() -> None:
        found = evaluate_coco(ground_truth, results, kinds=[kind])[kind]
        _write(numbers, list(found.values()))

    return step


def _write(path: str, numbers: list[float]) -> None:
    Path(path).write_text(json.dumps(numbers), encoding="utf-8")
