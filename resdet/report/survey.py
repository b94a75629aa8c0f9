"""What the page on a data set says: its findings, statistics and suggestions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial

import numpy as np

from resdet.config.classification import ClassificationConfig
from resdet.config.loading import AnyConfig
from resdet.data.detection.suggestions import GOOD, POOR, REPEAT_KEY, repeat_effect
from resdet.data.detection.survey import ObjectSurvey
from resdet.factory.survey import Part, Survey, located
from resdet.files.findings import Finding, summarize_findings
from resdet.files.scale import LEAST_SIDE
from resdet.report.classification import label_statistics
from resdet.report.data import (
    DataStatistics,
    Fact,
    GalleryGroup,
    GalleryItem,
    Report,
    RunReport,
    Table,
)
from resdet.report.facts import detection_statistics
from resdet.report.pictures import Album, Entry
from resdet.report.source import open_image
from resdet.version import __version__


def data_statistics(survey: Survey) -> list[DataStatistics]:
    """Numbers of each part of the data; of detectors also as the network sees the objects."""
    return [_part(part, survey.repeat_threshold) for part in survey.parts]


def data_report(
    config: AnyConfig,
    survey: Survey,
    statistics: Sequence[DataStatistics],
    findings: Sequence[Finding],
) -> Report:
    """The page's content."""
    names = list(survey.parts[0].data.class_names) if survey.parts else []
    lines = summarize_findings(findings)
    facts = [Fact("findings", f"{len(findings):,}")]
    for suggestion in survey.suggestions:
        values = ", ".join(f"{key}={value}" for key, value in suggestion.keys.items())
        facts.append(Fact("suggestion", values, suggestion.reason))
    album = Album()
    items = [item for part in survey.parts for item in _shown(part, survey.findings, album)]
    pictures, _ = album.pictures()
    words = "Images that a finding names, in the order of the findings."
    run = RunReport(
        name=_title(config),
        folder="",
        task="data",
        class_names=names,
        facts=facts,
        notes=lines,
        statistics=list(statistics),
        gallery=[GalleryGroup("odd", "Images to look at", words, items, len(items))]
        if items
        else [],
    )
    created = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}, resdet {__version__}"
    return Report(f"Data: {run.name}", created, [run], pictures)


def _shown(part: Part, findings: Sequence[Finding], album: Album) -> list[GalleryItem]:
    """The images of one part that findings of the survey name."""
    own = [finding for finding in findings if finding.file == located(part.data).file]
    if not own:
        return []
    texts = [(f"{finding.item} {finding.what}", finding.what) for finding in own]
    every = "\n".join(text for text, _ in texts)
    name_of, items = located(part.data).name_of, []
    named = {row: name for row in range(len(part.data)) if (name := name_of(row)) in every}
    for text, what in texts:
        for row, name in named.items():
            entry = Entry(name, partial(open_image, part.data, row), (0, 0))
            if name not in text:
                continue
            picture = album.row(f"{part.name} {name}", lambda entry=entry: entry)  # type: ignore[misc]
            if picture is not None:
                items.append(GalleryItem(picture, what))
    return items


def _title(config: AnyConfig) -> str:
    if isinstance(config, ClassificationConfig):
        root = config.data.train.root or config.data.root
        return str(root)
    annotations = config.data.train.annotations
    return annotations if isinstance(annotations, str) else ", ".join(annotations)


def _part(part: Part, repeat_threshold: float | None) -> DataStatistics:
    objects = part.objects
    if objects is None and not hasattr(part.data, "table"):
        labels = np.bincount(part.data.labels, minlength=len(part.data.class_names))
        return label_statistics(part.name, labels, list(part.data.class_names))
    statistics = detection_statistics(part.name, part.data.table)
    if objects is None or not len(objects.rows):
        return statistics
    return replace(
        statistics,
        facts=[*statistics.facts, *_seen(objects)],
        classes=_with_repeats(statistics.classes, objects, repeat_threshold),
    )


def _seen(objects: ObjectSurvey) -> list[Fact]:
    """The objects at the size that the network sees."""
    low, middle, high = np.quantile(objects.root_areas, (0.05, 0.5, 0.95))
    fits, view = objects.fits, objects.view
    smallest = min(min(level) for level in view.anchors.sizes)
    return [
        Fact(
            "images are resized by",
            f"{np.median(objects.scales):.3g} (median)",
            f"short side {view.short_edge:g}, long side up to {view.max_size:g} pixels",
        ),
        Fact(
            "√area of objects then",
            f"{middle:.0f} pixels (median; 5 % below {low:.0f}, 5 % above {high:.0f})",
        ),
        Fact(
            "lost to resizing",
            f"{objects.is_tiny.mean():.1%} of the objects",
            f"less than {LEAST_SIDE:g} pixels wide or high",
        ),
        Fact(
            f"best anchor below IoU {GOOD:g}",
            f"{(fits < GOOD).mean():.1%} of the objects",
            f"below {POOR:g}: {(fits < POOR).mean():.1%}",
        ),
        Fact(
            "below the smallest level",
            f"{(objects.root_areas < smallest / 2).mean():.1%} of the objects",
            f"√area less than half of the smallest anchors, {smallest:g} pixels",
        ),
        Fact(
            "overlapped",
            f"{objects.is_overlapped.mean():.1%} of the objects",
            f"by another one of their class with an IoU over {view.nms_thresh:g}",
        ),
        *([] if view.tile is not None else [_crowded(objects)]),
    ]


def _crowded(objects: ObjectSurvey) -> Fact:
    most = objects.view.most
    return Fact(
        "crowded images",
        f"{(objects.objects_per_image > most).sum():,}",
        f"with more objects than model.detections_per_image, {most}",
    )


def _with_repeats(
    table: Table | None, objects: ObjectSurvey, threshold: float | None
) -> Table | None:
    """The table of classes, with how often repeat-factor sampling would show each."""
    if table is None or threshold is None:
        return table
    factors, _ = repeat_effect(objects, threshold)
    of_class = dict(zip(objects.table.class_names, factors.tolist(), strict=True))
    rows = [[*row, round(of_class[str(row[0])], 2)] for row in table.rows]
    return replace(
        table,
        columns=[*table.columns, "repeated"],
        rows=rows,
        note=f"repeated: how often images of the class are seen with {REPEAT_KEY}={threshold:g}",
    )
