"""The report of a detector: what its stored detections say, section by section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.report import numbers
from resdet.report.analysis import Analysis, analyze, read_summary
from resdet.report.breakdowns import breakdowns
from resdet.report.data import RunReport
from resdet.report.facts import detection_statistics
from resdet.report.gallery import Shown
from resdet.report.source import RunSource

Section = TypeVar("Section")

DIAGNOSED = {
    "coco": "",
    "lvis": "Errors, confusion and pictures leave out detections of classes that an image is not "
    "annotated for.",
    "voc07": "The metrics are VOC's. Everything below them matches by COCO's rule at IoU .50, with "
    "difficult objects left out.",
}
DIAGNOSED["voc12"] = DIAGNOSED["voc07"]
DIAGNOSED["imagenet_det"] = (
    "The metrics are ImageNet's. Everything below them matches by COCO's rule at IoU .50."
)


def describe(base: RunReport, source: RunSource, shown: Shown | None) -> RunReport:
    """The report of a detector; `base` has what all tasks have."""
    notes = list(base.notes)
    statistics = []
    if source.train is not None:
        statistics.append(detection_statistics("data.train", source.train))  # type: ignore[arg-type]
    if source.val is not None:
        name = "held out" if getattr(source.config.data, "split", None) else "data.val"
        statistics.append(detection_statistics(name, source.val.table))
    if shown is None:
        summary = read_summary(source.folder)
        metrics = numbers.metrics_table(Result(summary, None, "")) if summary else None
        return replace(base, notes=notes, statistics=statistics, metrics=metrics)
    analysis = shown.analysis
    result, kinds = analysis.result, list(analysis.by_kind.values())
    metric = source.evaluated.eval.metric
    notes += [DIAGNOSED[metric]] if DIAGNOSED.get(metric) else []
    notes += result.notes
    return replace(
        base,
        notes=notes,
        statistics=statistics,
        metrics=numbers.metrics_table(result),
        per_class=numbers.class_tables(result),
        precision_recall=numbers.precision_recall(result),
        confidence=_present(map(numbers.confidence, kinds)),
        confusion=_present(map(numbers.confusion, kinds)),
        errors=_present(map(numbers.errors, kinds)),
        calibration=_present(map(numbers.calibration, kinds)),
        breakdowns=breakdowns(analysis.shown),
        gallery=shown.galleries(),
        threshold=analysis.shown.threshold,
    )


def _present(sections: Iterable[Section | None]) -> list[Section]:
    return [each for each in sections if each is not None]


def class_names_of(sources: Sequence[RunSource]) -> list[str]:
    """The classes of all runs, those of the first one first."""
    names: dict[str, None] = {}
    for source in sources:
        own = source.stored.class_names if source.stored is not None else ()
        names |= dict.fromkeys(own)
    return list(names)


def checked(source: RunSource) -> tuple[Analysis | None, list[str]]:
    """`analyze`, and in place of an error the reason why there is none."""
    try:
        return analyze(source), []
    except UserError as error:
        return None, [str(error)]
