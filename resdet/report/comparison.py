"""Runs beside the first: differences of config and metrics, and the images that changed most.

Whether a difference is more than chance of the images is tested by a paired bootstrap over images
(Efron & Tibshirani 1993, chapter 16): images are drawn with replacement, the same ones for both
runs, and the 2.5 and 97.5 percentiles of the difference are its interval.
It tells nothing about the chance of another seed, for which several runs are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from resdet.evaluation.coco import MAX_DETS, summarize
from resdet.evaluation.stored import Answers
from resdet.report.bootstrap import FEWER, MANY, RESAMPLES, differences_of_ap, mean_interval
from resdet.report.candidates import image_counts
from resdet.report.classification import accuracy, caption, class_names_of, entry_of
from resdet.report.data import (
    Cell,
    ConfigDifference,
    GalleryGroup,
    GalleryItem,
    RunComparison,
    RunReport,
    Significance,
    Table,
)
from resdet.report.gallery import Shown
from resdet.report.matching import Floats, Ints
from resdet.report.numbers import heading
from resdet.report.pictures import Album
from resdet.report.source import RunSource

logger = logging.getLogger("resdet")

CHANGED = 24
"""Images in the gallery of changed ones."""
METHOD = (
    "Paired bootstrap over images (Efron & Tibshirani 1993): {n} times, images are drawn with "
    "replacement, the same for both runs; the interval has the middle 95 % of the differences. "
    "It covers the chance of the images, not that of another seed."
)


def compare_detectors(
    run: int, differing: list[ConfigDifference], shown: Sequence[Shown | None], names: Sequence[str]
) -> RunComparison:
    """Run `run` beside run 0, both of them analysed or not."""
    first, other = shown[0], shown[run]
    if first is None or other is None:
        return RunComparison(run, differing, [], "One of the two has no detections.", None)
    if not same_truth(first, other):
        why = "The two were evaluated on different images or annotations, so nothing is compared."
        return RunComparison(run, differing, [], why, None)
    found, count = [], 0
    for kind, matches in first.analysis.by_kind.items():
        if kind in other.analysis.by_kind:
            pair = (matches, other.analysis.by_kind[kind])
            total = sum(len(each.detections.scores) for each in pair)
            count = RESAMPLES if total <= MANY else FEWER
            if total > MANY:
                logger.info(
                    f"comparing {kind} AP of {names[0]} and {names[run]}: {count} resamples"
                )
            numbers = [summarize(each.evaluation, MAX_DETS) for each in pair]
            found += [
                significance(f"{kind} {name}", numbers[0][name], numbers[1][name], *both)
                for name, both in differences_of_ap(*pair, count).items()
            ]
    changed = changed_images(first, other)
    return RunComparison(run, differing, found, METHOD.format(n=count), changed)


def same_truth(first: Shown, other: Shown) -> bool:
    """Whether two runs were evaluated on the same images and objects."""
    one, two = (each.analysis.shown.truth for each in (first, other))
    return (
        one.image_ids.tolist() == two.image_ids.tolist()
        and one.class_names == two.class_names
        and np.array_equal(one.boxes_xywh, two.boxes_xywh)
        and np.array_equal(one.labels, two.labels)
    )


def significance(metric: str, first: float, other: float, low: float, high: float) -> Significance:
    """A difference and what its interval says; of numbers of which higher is better."""
    verdict = "no difference beyond chance"
    if low > 0:
        verdict = "better"
    elif high < 0:
        verdict = "worse"
    return Significance(metric, first, other, other - first, low, high, verdict)


def changed_images(first: Shown, other: Shown) -> GalleryGroup:
    """The images whose F1 changed most, each run at its own best threshold."""
    matches = [each.analysis.shown for each in (first, other)]
    counts = [image_counts(each, each.threshold) for each in matches]
    at = [f"at score {each.threshold:.3g}:" for each in matches]
    scores = [_f1(*each) for each in counts]
    change = scores[1] - scores[0]
    rows = np.flatnonzero(change)
    order = rows[np.argsort(-np.abs(change[rows]), kind="stable")]
    items = []
    for image in order[:CHANGED].tolist():
        places = [each.add(image) for each in (first, other)]
        if None in places:
            continue
        one, two = (_words(*(int(column[image]) for column in each)) for each in counts)
        better = "better" if change[image] > 0 else "worse"
        reason = (
            f"{better}: F1 {scores[0][image]:.2f} → {scores[1][image]:.2f}; "
            f"first {at[0]} {one}; then {at[1]} {two}"
        )
        items.append(GalleryItem(places[0] or 0, reason, labels=first.labels_in(image)))
    return GalleryGroup(
        "changed",
        "Images that changed",
        "Images by the change of their F1, each run at its own best threshold; largest first.",
        items,
        len(rows),
    )


def _f1(found: Ints, wrong: Ints, missed: Ints) -> Floats:
    """(N,) 1 for images without objects and detections."""
    total = 2 * found + wrong + missed
    return np.divide(2 * found, total, out=np.ones(len(total)), where=total > 0)


def _words(found: int, wrong: int, missed: int) -> str:
    return f"{found} of {found + missed} found, {wrong} wrong"


def compare_classifiers(
    run: int,
    differing: list[ConfigDifference],
    sources: Sequence[RunSource],
    album: Album,
) -> RunComparison:
    """Run `run` beside run 0, by their stored answers."""
    answers = [each.stored.predictions if each.stored else None for each in sources]
    one, two = answers[0], answers[run]
    if not isinstance(one, Answers) or not isinstance(two, Answers):
        return RunComparison(run, differing, [], "One of the two has no predictions.", None)
    if one.names != two.names or _true_classes(one) != _true_classes(two):
        why = "The two were evaluated on different images or classes, so nothing is compared."
        return RunComparison(run, differing, [], why, None)
    right = [(each.top == each.labels[:, None]).cumsum(axis=1) > 0 for each in (one, two)]
    found = []
    for name, column in (("top1_percent", 0), ("top5_percent", -1)):
        low, high = mean_interval(right[1][:, column].astype(int) - right[0][:, column])
        before, after = (accuracy(each)[name] for each in (one, two))
        found.append(significance(heading(name), before, after, 100 * low, 100 * high))
    names = class_names_of(sources[0]), class_names_of(sources[run])
    changed = _changed_answers(one, two, sources[0], album, names)
    return RunComparison(run, differing, found, METHOD.format(n=RESAMPLES), changed)


def _true_classes(answers: Answers) -> list[str]:
    """By name: of two runs, one may have more classes than the other."""
    return [answers.class_names[label] for label in answers.labels.tolist()]


def _changed_answers(
    one: Answers,
    two: Answers,
    source: RunSource,
    album: Album,
    names: tuple[list[str], list[str]],
) -> GalleryGroup | None:
    """The images whose class changed its share of the softmax most; `names` are each run's."""
    if source.val is None:
        return None
    change = two.own_scores.astype(np.float64) - one.own_scores
    positions = {source.val.name(place): place for place in range(len(source.val))}
    flipped = (one.top[:, 0] == one.labels) != (two.top[:, 0] == two.labels)
    order = np.lexsort((-np.abs(change), ~flipped))[:CHANGED]
    items = []
    for row in order.tolist():
        place = positions.get(one.names[row])
        if place is None:
            continue
        make = partial(entry_of, source.val, place, row, one, names[0])
        picture = album.row(one.names[row], make)
        if picture is None:
            break
        reason = f"first {caption(row, one, names[0])}; then {caption(row, two, names[1])}"
        items.append(GalleryItem(picture, reason, labels=[int(one.labels[row])]))
    words = "Images that only one of the two has right, then by the change of their class's share."
    return GalleryGroup("changed", "Images that changed", words, items, int(flipped.sum()))


def side_by_side(runs: Sequence[RunReport]) -> Table | None:
    """The first numbers of each run's metrics, one row per run."""
    if len(runs) < 2:
        return None
    values: list[dict[str, Cell]] = []
    for run in runs:
        table = run.metrics
        rows = table.rows if table else []
        columns = table.columns[1:] if table else []
        values.append(
            {
                f"{row[0]} {name}" if table and table.columns[0] == "kind" else name: cell
                for row in rows
                for name, cell in zip(columns[:6], row[1:], strict=False)
            }
        )
    names = list(dict.fromkeys(name for each in values for name in each))
    rows = [
        [run.name, *(own.get(name) for name in names)]
        for run, own in zip(runs, values, strict=True)
    ]
    return Table("Runs side by side", ["run", *names], rows)
