"""Reports of runs: everything put together, and written as one page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from resdet.errors import UserError
from resdet.files.run_log import read_log
from resdet.files.writing import write_text
from resdet.report import classification, detection, localization
from resdet.report.analysis import read_summary
from resdet.report.candidates import galleries
from resdet.report.comparison import compare_classifiers, compare_detectors, side_by_side
from resdet.report.data import ConfigDifference, Fact, Report, RunReport
from resdet.report.facts import differences, differences_from_defaults, training_curves
from resdet.report.gallery import Shown
from resdet.report.labels import label_errors
from resdet.report.pictures import MAX_PICTURES, Album
from resdet.report.source import RunSource
from resdet.version import __version__

FILE = "report.html"
NO_PREDICTIONS = "There are no stored predictions, so errors and images are not shown."
MAX_PAGE = 14_500_000
"""Bytes; larger pages get smaller pictures."""
PROBLEMS = 5
"""Images that can't be read, named."""


def write_report(sources: Sequence[RunSource], path: Path) -> Path:
    """The page of one run, or of several side by side; WriteError where the disk refuses."""
    from resdet.report.page import render

    page = render(make_report(sources))
    if len(page) > MAX_PAGE:
        page = render(make_report(sources, share=MAX_PAGE / len(page) / 2))
    return write_text(path, page)


def make_report(sources: Sequence[RunSource], share: float = 1.0) -> Report:
    """What the page of some runs of the same task says, with a `share` of the usual bytes of
    pictures; UserError for several tasks."""
    tasks = list(dict.fromkeys(source.config.task for source in sources))
    if len(tasks) > 1:
        raise UserError(f"runs of {' and '.join(tasks)} have no number in common; compare one task")
    album = Album()
    names = _distinct([source.name for source in sources])
    bases = [_base(source, name) for source, name in zip(sources, names, strict=True)]
    differing = [differences(sources[0].config, each.config) for each in sources]
    if tasks[0] == "detection":
        runs, comparisons = _detectors(sources, bases, differing, album, names)
    elif tasks[0] == "classification":
        runs, comparisons = _classifiers(sources, bases, differing, album)
    else:
        runs = [
            _or_reason(base, lambda b=base, s=source, k=k: localization.describe(b, s, album, k))  # type: ignore[misc]
            for k, (base, source) in enumerate(zip(bases, sources, strict=True))
        ]
        comparisons = []
    pictures, problems = album.pictures(share)
    notes = []
    if problems:
        more = f" and {len(problems) - PROBLEMS} more" if len(problems) > PROBLEMS else ""
        listed = "; ".join(problems[:PROBLEMS])
        notes.append(f"{len(problems)} images cannot be shown: {listed}{more}")
    return Report(
        title=" and ".join(names) if len(names) < 4 else f"{len(names)} runs",
        created=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, resdet {__version__}",
        runs=runs,
        pictures=pictures,
        metrics=side_by_side(runs),
        comparisons=comparisons,
        notes=notes,
    )


def _detectors(
    sources: Sequence[RunSource],
    bases: Sequence[RunReport],
    differing: Sequence[list[ConfigDifference]],
    album: Album,
    names: Sequence[str],
) -> tuple[list[RunReport], list[Any]]:
    classes = detection.class_names_of(sources)
    shown: list[Shown | None] = []
    reasons = []
    for run, source in enumerate(sources):
        analysis, reason = detection.checked(source)
        reasons.append(reason)
        own = None if analysis is None else Shown(analysis, album, run, classes, len(sources))
        shown.append(own)
    album.most = MAX_PICTURES // 2
    others = range(1, len(sources))
    comparisons = [compare_detectors(run, differing[run], shown, names) for run in others]
    for run, own in enumerate(shown):
        album.most = len(album.rows) + (MAX_PICTURES - len(album.rows)) // (len(sources) - run)
        if own is not None:
            own.choose([*galleries(own.matches), label_errors(own.matches)])
    runs = []
    for run, (base, source) in enumerate(zip(bases, sources, strict=True)):
        base = replace(base, class_names=classes, notes=[*base.notes, *reasons[run]])
        runs.append(detection.describe(base, source, shown[run]))
    return runs, comparisons


def _classifiers(
    sources: Sequence[RunSource],
    bases: Sequence[RunReport],
    differing: Sequence[list[ConfigDifference]],
    album: Album,
) -> tuple[list[RunReport], list[Any]]:
    album.most = MAX_PICTURES // 2
    comparisons = [
        compare_classifiers(run, differing[run], sources, album) for run in range(1, len(sources))
    ]
    runs = []
    for run, (base, source) in enumerate(zip(bases, sources, strict=True)):
        album.most = len(album.rows) + (MAX_PICTURES - len(album.rows)) // (len(sources) - run)
        base = replace(base, class_names=classification.class_names_of(source))
        runs.append(classification.describe(base, source, album))
    return runs, comparisons


def _or_reason(base: RunReport, describe: Callable[[], RunReport]) -> RunReport:
    """A run's report; without results, and with the reason, where they are of other data."""
    try:
        return describe()
    except UserError as error:
        return replace(base, notes=[*base.notes, str(error)])


def _base(source: RunSource, name: str) -> RunReport:
    """What the reports of all tasks have."""
    records = []
    log = source.folder / "log.jsonl"
    if log.is_file():
        records = read_log(log)
    names = [] if source.stored is None else source.stored.class_names
    missing = [NO_PREDICTIONS] if source.stored is None and not source.notes else []
    return RunReport(
        name=name,
        folder=str(source.folder),
        task=source.config.task,
        class_names=names,
        facts=_facts(source, records),
        notes=[*source.notes, *missing],
        config_differences=differences_from_defaults(source.config),
        curves=training_curves(records),
    )


def _facts(source: RunSource, records: Sequence[dict[str, Any]]) -> list[Fact]:
    config: Any = source.config
    facts = [Fact("task", config.task)]
    backbone = config.model.backbone.name
    facts.append(Fact("backbone", str(backbone) if backbone else "that of model.weights"))
    if getattr(config.model, "weights", None):
        facts.append(Fact("start weights", str(config.model.weights)))
    train = [record for record in records if "loss" in record]
    if train:
        facts.append(Fact("trained", f"{train[-1]['step']:,} steps", _epochs(train[-1])))
        speeds = [r["images_per_s"] for r in train if r.get("images_per_s") is not None]
        if speeds:
            facts.append(Fact("speed", f"{np.median(speeds):.3g} images/s", "median of the log"))
        memory = [r["memory_mb"] for r in train if r.get("memory_mb") is not None]
        if memory:
            facts.append(Fact("memory", f"{max(memory):,.0f} MB", "largest of the log"))
    metric = source.evaluated.eval.metric
    facts.append(Fact("metric", metric))
    summary = read_summary(source.folder)
    made = [r["step"] for r in records if r.get("eval") and _is_part(r["eval"], summary)]
    if made:
        facts.append(Fact("numbers of", f"step {made[-1]:,}", "the validation with the best value"))
    if source.stored is not None:
        changed = differences(source.config, source.evaluated)
        if changed:
            words = ", ".join(f"{each.key}={each.value}" for each in changed[:8])
            facts.append(Fact("evaluated with", words, "other than in the run's config"))
    return facts


def _is_part(logged: dict[str, Any], summary: dict[str, Any]) -> bool:
    """Whether a validation of the log has the numbers of eval.json."""
    return all(summary.get(key) == value for key, value in logged.items())


def _epochs(record: dict[str, Any]) -> str:
    if record.get("epoch") is None:
        return ""
    count = f"{record['epoch']:.3g}"
    return f"{count} epoch" if count == "1" else f"{count} epochs"


def _distinct(names: Sequence[str]) -> list[str]:
    """Names of runs, with a number where one comes again."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
