"""What every metric returns, and how it is written and printed."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.errors import first_few
from resdet.files.writing import make_folder, write_csv, write_json, write_text
from resdet.viz.tables import print_table

logger = logging.getLogger("resdet")

NAMED = 8
"""Images that a note names."""


@dataclass(frozen=True)
class EvalSettings:
    """What a metric is built with beside the ground truth."""

    iou_types: tuple[str, ...] | None = None
    """bbox and segm; None is whatever ground truth and detections have."""
    max_dets: tuple[int, ...] | None = None
    """Ascending caps on the detections per image and class; None is the metric's own."""
    backend: str = "fast"
    overlap: str = "inclusive"
    """VOC: inclusive matches from an overlap of .5, exclusive above .5."""
    blacklist: str | None = None
    """ImageNet: the file of what is not evaluated."""


@runtime_checkable
class LeavesOut(Protocol):
    """An evaluator that can do without images of its ground truth; ours of detectors can."""

    def leave_out(self, image_ids: Sequence[int | str]) -> None:
        """Forget the objects of images that could not be read: they are neither found nor
        missed."""
        ...


class Evaluator(Protocol):
    """One metric: sees predictions batch by batch, in any number of processes.

    Each process updates its own evaluator. The main process merges the `state` of the others into
    its own and computes the result.
    """

    @property
    def state(self) -> Any:
        """What was gathered so far; it is pickled to reach another process."""
        ...

    def update(self, image_ids: Sequence[int | str], predictions: Any) -> None:
        """Add the predictions of some images, by their ids in the annotation file.

        Detectors give `Detections` whose labels are those of the ground truth.
        """
        ...

    def merge(self, state: Any) -> None:
        """Add what another process gathered on other images."""
        ...

    def compute(self) -> Result:
        """Evaluate everything gathered so far."""
        ...


@dataclass
class Result:
    """The outcome of one evaluation, the same for every metric."""

    summary: dict[str, Any]
    """Numbers by name, or by group and name, for log.jsonl and eval.json."""
    best: tuple[str, float] | None
    """Name and value that best.pt is chosen by, higher is better; None if there is no value."""
    words: str
    """The summary for people, in one line."""
    per_class: list[dict[str, Any]] = field(default_factory=list)
    """Rows of per_class.csv: a name and numbers, first a group where the summary has groups."""
    curves: dict[str, NDArray[Any]] = field(default_factory=dict)
    """By group (T, R, K) precision at T IoU thresholds (.50 first; COCO's ten or one), R recalls
    and K classes; -1 for classes without objects. Drawn as pr_GROUP.png and, by class,
    as pr_GROUP_classes.png."""
    class_names: list[str] = field(default_factory=list)
    """K names for the curves by class, which two or more names have."""
    details: Callable[[], dict[str, Any]] | None = None
    """Further numbers for eval.json that take longer to compute than the summary."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was repaired, left out or has no value."""
    remarks: list[str] = field(default_factory=list)
    """Sentences on numbers that the annotations leave without a value, which needs no action."""
    records: list[dict[str, Any]] | None = None
    """COCO result records, where there are no annotations to evaluate them against: written as
    detections.json."""
    truth: AnnotationTable | None = None
    """The ground truth of a detector's metric."""
    failure: str | None = None
    """Why the numbers don't count, such as too many broken images: commands write them, then fail
    with this message."""
    detections: Any = None
    """All that was evaluated, for submissions and reports: a DetectionTable of COCO's metrics,
    PixelDetections of VOC's and ImageNet's, Answers of classifiers."""
    run_config: dict[str, Any] | None = None
    """The config by which a run was evaluated, as plain values: with it the detections are
    written as well, for the run's report. None for files and ensembles."""

    def without(self, problems: Sequence[str]) -> Result:
        """Count and name images that were left out because they could not be read; returns
        itself."""
        if problems:
            what = f"{len(problems)} image(s) could not be read"
            self.words += f"; {what}"
            self.notes.append(f"{what} and are left out: {first_few(problems, NAMED)}")
            groups = [each for each in self.summary.values() if isinstance(each, dict)]
            for numbers in groups or [self.summary]:
                numbers["num_broken"] = len(problems)
        return self

    def log_notes(self) -> Result:
        """The notes as warnings; returns itself."""
        for note in self.notes:
            logger.warning(note)
        return self

    def log_remarks(self) -> Result:
        """The remarks, which are alike for every evaluation on the same data; returns itself."""
        for remark in self.remarks:
            logger.info(remark)
        return self

    def write(self, folder: str | Path) -> list[Path]:
        """Write eval.json, per_class.csv and the curves, and of a run its predictions; returns
        their paths.

        Raises WriteError where the disk refuses.
        """
        from resdet.evaluation.stored import store
        from resdet.viz.class_curves import plot_class_curves
        from resdet.viz.plots import plot_pr_curves

        folder = make_folder(folder)
        numbers = self.summary | (self.details() if self.details else {})
        paths = [write_json(folder / "eval.json", numbers)]
        if self.run_config is not None:
            stored = store(
                folder, self.detections, self.run_config, self.truth, kinds=tuple(self.curves)
            )
            paths += [stored] if stored is not None else []
        if self.records is not None:
            paths.append(write_text(folder / "detections.json", json.dumps(self.records)))
        if self.per_class:
            paths.append(write_csv(folder / "per_class.csv", self.per_class))
        for group, precision in self.curves.items():
            title = f"Precision and recall, {group}"
            paths.append(plot_pr_curves(precision, folder / f"pr_{group}.png", title=title))
            if len(self.class_names) < 2:
                continue
            rows = [row for row in self.per_class if row.get("kind", group) == group]
            values = {row["name"]: row.get("AP", math.nan) for row in rows}
            path = folder / f"pr_{group}_classes.png"
            paths.append(
                plot_class_curves(precision, self.class_names, path, title=title, values=values)
            )
        return paths

    def print_tables(self, file: TextIO | None = None) -> None:
        """The summary, and the classes that have objects or predictions."""
        groups = {name: each for name, each in self.summary.items() if isinstance(each, dict)}
        plain = {name: each for name, each in self.summary.items() if name not in groups}
        if plain:
            print_table("", list(plain), [[*map(_cell, plain.values())]], file)
        if groups:
            header = ["kind", *next(iter(groups.values()))]
            rows = [[name, *map(_cell, each.values())] for name, each in groups.items()]
            print_table("", header, rows, file)
        for group in dict.fromkeys(row.get("kind") for row in self.per_class):
            shown = [row for row in self.per_class if row.get("kind") == group and _occurs(row)]
            if shown:
                columns = [name for name in shown[0] if name not in ("kind", "category_id")]
                header = [_HEADINGS.get(name, name) for name in columns]
                rows = [[_cell(row[name]) for name in columns] for row in shown]
                print_table(f"{group or 'all'}, per class", header, rows, file)


_HEADINGS = {"name": "class", "num_gt": "objects", "num_detections": "detections"}


def _occurs(row: dict[str, Any]) -> bool:
    """Whether a class has any of what its row counts; rows without counts are all shown."""
    counts = [value for name, value in row.items() if name.startswith("num_")]
    return not counts or any(counts)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-1" if value == -1 else "NaN" if math.isnan(value) else f"{value:.3f}"


def no_metrics(truth: AnnotationTable, detections: Any, **fields: Any) -> Result:
    """The result for a file of images without annotations: detections and no number."""
    note = f"{truth.source}: it has no annotations, so there are no metrics"
    words = "no metrics without annotations"
    return Result({}, None, words, notes=[note], truth=truth, detections=detections, **fields)
