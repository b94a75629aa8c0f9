"""The report's numbers agree with hotcoco's and with direct counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from resdet.data.detection.readers import read_annotations
from resdet.evaluation.coco import evaluate_coco_full
from resdet.evaluation.coco_backends import run_backend
from resdet.evaluation.coco_detections import read_detections
from resdet.evaluation.coco_result import TIDE_ERRORS
from resdet.report import numbers
from resdet.report.bootstrap import mean_interval, ranked_classes, resampled_precisions
from resdet.report.breakdowns import breakdowns
from resdet.report.candidates import galleries, image_counts, in_turn
from resdet.report.labels import label_errors, near_pairs
from resdet.report.matching import Matches, match

MAX_DETS = (1, 10, 100)


@pytest.fixture(scope="module", params=["bbox", "segm"])
def matches(request: pytest.FixtureRequest, shared_data: Path) -> Matches:
    """COCO's fake results: 100 images, 80 classes, crowd regions."""
    folder, kind = shared_data / "eval_fixtures", request.param
    truth = read_annotations(folder / "instances_val2014_100.json", [])
    file = folder / f"instances_val2014_fake{kind}100_results.json"
    table, _ = read_detections(file, truth, [kind])
    return match(truth, table, kind, MAX_DETS)


def test_each_wrong_detection_has_the_kind_that_tide_counts(matches: Matches) -> None:
    kinds, ious, objects = matches.error_types(np.flatnonzero(matches.is_wrong))
    counts = matches.evaluation.hotcoco.tide_errors()["counts"]
    assert Counter(kinds) == {k: n for k, n in counts.items() if k != "Miss" and n}
    assert all(objects[k] >= 0 and iou > 0.1 for k, iou in enumerate(ious) if kinds[k] != "Bkg")
    errors = numbers.errors(matches)
    assert errors is not None and [each.name for each in errors.types] == list(TIDE_ERRORS)
    assert {each.name: each.count for each in errors.types}["Miss"] == counts["Miss"]


def test_matches_have_the_classes_and_overlaps_they_need(matches: Matches) -> None:
    rows = np.flatnonzero(matches.is_right)
    assert len(rows) > 100 and not (matches.is_right & matches.is_wrong).any()
    objects = matches.object_of[rows]
    assert len(set(objects.tolist())) == len(objects)
    assert (matches.truth.labels[objects] == matches.detections.labels[rows]).all()
    assert (matches.truth.image_of[objects] == matches.detections.images[rows]).all()
    assert np.nanmin(matches.match_ious) >= 0.5 and not matches.truth.crowd[objects].any()


def test_confusion_is_hotcocos(matches: Matches) -> None:
    confusion = numbers.confusion(matches)
    assert confusion is not None and confusion.names[-1] == "background"
    # of 80 classes the 40 of the most confused pairs
    assert len(confusion.names) == 41 and "40 of the most confused" in confusion.note
    counted = matches.is_right | matches.is_wrong
    table = matches.detections.select(np.flatnonzero(counted))
    own = run_backend(matches.truth, table, iou_type=matches.kind).hotcoco
    whole = own.confusion_matrix(iou_thr=0.5, min_score=matches.threshold)
    order = [whole["cat_names"].index(name) for name in confusion.names[:-1]]
    keep = [*order, len(whole["cat_names"])]
    assert np.array_equal(confusion.matrix, whole["matrix"][np.ix_(keep, keep)])
    first = confusion.pairs.rows[0]
    assert first[2] == max(row[2] for row in confusion.pairs.rows)  # type: ignore[type-var]


def test_calibration_is_hotcocos(matches: Matches) -> None:
    calibration = numbers.calibration(matches)
    expected = matches.evaluation.hotcoco.calibration()
    assert calibration is not None and calibration.ece == expected["ece"]
    assert sum(each.count for each in calibration.bins) == expected["num_detections"]


def test_the_best_threshold_by_trying_all(matches: Matches) -> None:
    scores, right, wrong = matches.detections.scores, matches.is_right, matches.is_wrong
    total = int(matches.is_object.sum())
    best = 0.0
    for threshold in np.unique(scores):
        above = scores >= threshold
        tp, fp = int((right & above).sum()), int((wrong & above).sum())
        best = max(best, 2 * tp / max(tp + fp + total, 1))
    section = numbers.confidence(matches)
    assert section is not None and section.best_f1 == pytest.approx(best, rel=1e-12)
    found, wrong_in, missed = image_counts(matches, matches.threshold)
    tp, fp, fn = found.sum(), wrong_in.sum(), missed.sum()
    assert 2 * tp / (2 * tp + fp + fn) == pytest.approx(best, abs=1e-3)
    at = section.chart.series[0].x.index(round(section.best_threshold, 4))
    assert section.chart.series[2].y[at] == pytest.approx(best, abs=1e-3)
    per_class = {row[0]: row[2] for row in section.classes.rows}
    assert len(per_class) == len(np.unique(matches.truth.labels[matches.is_object]))


def test_breakdowns_share_out_the_same_objects(matches: Matches) -> None:
    found, wrong, missed = (int(each.sum()) for each in image_counts(matches, matches.threshold))
    tables = breakdowns(matches)
    assert len(tables) == 5
    for table in tables:
        column = {name: k for k, name in enumerate(table.columns)}
        total = sum(row[column["detections"]] for row in table.rows)  # type: ignore[misc]
        assert total == found + wrong, table.title
        if "objects" in column:
            objects = [row[column["objects"]] for row in table.rows]
            recalls = [row[column["recall"]] or 0 for row in table.rows]
            assert sum(objects) == found + missed, table.title  # type: ignore[arg-type]
            assert np.dot(objects, recalls) == pytest.approx(found), table.title  # type: ignore[arg-type]
    images = sum(row[1] for row in tables[-1].rows)  # type: ignore[misc]
    assert images == len(matches.truth.image_ids)


def test_ap_of_weighted_images(matches: Matches) -> None:
    """With weight 1 it is COCO's AP; with others that of a table with copies of the images."""
    truth, count = matches.truth, len(matches.truth.image_ids)
    precision = matches.evaluation.precision[..., 0]
    ones = np.ones((1, count), int)
    found = resampled_precisions(ranked_classes(matches), ones)[0]
    np.testing.assert_allclose(found, [each[each > -1].mean() for each in precision], atol=1e-12)
    rng = np.random.default_rng(0)
    # without equal scores, whose order depends on the images' ids
    table = matches.detections.select(np.arange(len(matches.detections.scores)))
    table.scores = table.scores + 1e-9 * np.arange(len(table.scores))
    matches = match(truth, table, matches.kind, MAX_DETS)
    draws = rng.multinomial(count, np.full(count, 1 / count), 1)
    found = resampled_precisions(ranked_classes(matches), draws)[0]
    rows = np.repeat(np.arange(count), draws[0])
    objects = [matches.objects_in(row) for row in rows.tolist()]
    detections = [np.flatnonzero(table.images == row) for row in rows.tolist()]
    copies = replace(
        truth.select(np.concatenate(objects)),
        image_of=np.repeat(np.arange(count), list(map(len, objects))),
        sizes=truth.sizes[rows],
    )
    again = table.select(np.concatenate(detections))
    again.images = np.repeat(np.arange(count), list(map(len, detections)))
    drawn = match(copies, again, matches.kind, MAX_DETS).evaluation.precision[..., 0]
    np.testing.assert_allclose(found, [each[each > -1].mean() for each in drawn], atol=1e-12)


def test_galleries_show_what_they_say(matches: Matches) -> None:
    groups = {group.key: group for group in galleries(matches)}
    scores = matches.detections.scores
    assert groups["false_positives"].total == int(
        (matches.is_wrong & (scores >= matches.threshold)).sum()
    )
    for item in groups["false_positives"].items:
        assert matches.is_wrong[item.detections[0]] and item.score is not None
        assert item.error in ("Cls", "Loc", "Both", "Dupe", "Bkg")
    assert len({item.error for item in groups["false_positives"].items}) >= 3
    for item in groups["missed"].items:
        assert matches.found_scores[item.objects[0]] < matches.threshold
    ious = [matches.match_ious[item.detections[0]] for item in groups["lowest_iou"].items]
    assert ious == sorted(ious)


def test_planted_label_errors_are_found(nuclei: Path) -> None:
    truth = read_annotations(nuclei / "annotations" / "val.json", [])
    # a perfect detector, for annotations of which one is missing, one double, one of another class
    rng = np.random.default_rng(0)
    records = [
        {
            "image_id": truth.image_ids[image],
            "category_id": 1,
            "bbox": box,
            "score": float(score),
        }
        for image, box, score in zip(
            truth.image_of.tolist(),
            truth.boxes_xywh.tolist(),
            rng.uniform(0.6, 1, len(truth.labels)),
            strict=True,
        )
    ]
    keep = np.append(np.delete(np.arange(len(truth.labels)), 700), 100)
    wrong = replace(truth.select(keep), class_names=["nucleus", "dust"], category_ids=[1, 2])
    wrong.labels[50] = 1
    table, _ = read_detections(records, wrong, ["bbox"])
    found = label_errors(match(wrong, table, "bbox", MAX_DETS))
    by_error = {item.error: item for item in found.items}
    assert set(by_error) == {"Bkg", "Cls", "Dupe"} and "guesses" in found.words
    assert by_error["Bkg"].detections == (700,)
    assert by_error["Cls"].objects == (50,) and "annotated as dust" in by_error["Cls"].reason
    assert set(by_error["Dupe"].objects) == {100, len(keep) - 1}


def test_near_pairs_by_trying_all(matches: Matches) -> None:
    if matches.kind == "segm":
        return  # of boxes alone
    from pycocotools import mask as mask_utils

    expected = set()
    for image in range(len(matches.truth.image_ids)):
        rows = matches.objects_in(image)
        rows = rows[matches.is_object[rows]]
        boxes = matches.truth.boxes_xywh[rows]
        ious = mask_utils.iou(boxes, boxes, [0] * len(rows)) if len(rows) else np.zeros((0, 0))
        for i, j in zip(*np.nonzero(np.triu(ious, 1) >= 0.75), strict=True):
            expected.add(frozenset((int(rows[i]), int(rows[j]))))
    assert {frozenset(pair[:2]) for pair in near_pairs(matches)} == expected


def test_without_objects_or_detections(nuclei: Path) -> None:
    truth = read_annotations(nuclei / "annotations" / "val.json", [])
    table, _ = read_detections([], truth, ["bbox"])
    none = match(truth, table, "bbox", MAX_DETS)
    assert none.threshold == 0.5 and numbers.confidence(none) is None
    assert numbers.calibration(none) is None and numbers.errors(none) is not None
    assert [group.total for group in galleries(none)] == [67, 0, 1974, 0]
    assert label_errors(none).items and len(breakdowns(none)) == 5
    empty = truth.without_objects(list(range(67)))
    bare = match(empty, table, "bbox", MAX_DETS)
    assert numbers.confusion(bare) is None and breakdowns(bare) == []
    assert all(not group.items for group in [*galleries(bare), label_errors(bare)])


def test_metrics_are_those_of_the_evaluation(shared_data: Path) -> None:
    folder = shared_data / "eval_fixtures"
    result = evaluate_coco_full(
        folder / "instances_val2014_100.json",
        folder / "instances_val2014_fakebbox100_results.json",
        kinds=["bbox"],
    )
    table = numbers.metrics_table(result)
    assert table is not None and table.rows[0][0] == "bbox"
    numbers_of_row = dict(zip(table.columns[1:], table.rows[0][1:], strict=True))
    assert numbers_of_row == result.summary["bbox"]
    (classes,) = numbers.class_tables(result)
    values = [row["AP"] for row in result.per_class if row["num_gt"] or row["num_detections"]]
    shown = [row[classes.columns.index("AP")] for row in classes.rows]
    assert shown == [None if value == -1 else value for value in values]
    (chart,) = numbers.precision_recall(result)
    assert len(chart.series) == 3 + numbers.MAX_CURVES
    mean = np.mean([y for y in chart.series[2].y if y is not None])
    assert mean == pytest.approx(result.summary["bbox"]["AP"], abs=1e-4)


def test_keys_in_turn() -> None:
    assert in_turn(["a", "a", "a", "b", "a", "c"], 4) == [0, 1, 3, 5]
    assert in_turn([], 4) == []


def test_the_interval_of_a_mean_against_resampling() -> None:
    rng = np.random.default_rng(3)
    change = rng.choice([-1, 0, 1], 200, p=[0.1, 0.7, 0.2])
    means = [rng.choice(change, 200).mean() for _ in range(4000)]
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(mean_interval(change), expected, atol=0.012)
