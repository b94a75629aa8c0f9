"""What is suggested for objects of known sizes and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from resdet.data.detection.anchors import Anchors
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.suggestions import suggest
from resdet.data.detection.survey import ObjectSurvey, View

ANCHORS = Anchors([[32], [64], [128], [256], [512]], [0.5, 1, 2], [4, 8, 16, 32, 64])
VIEW = View(800, 1333, ANCHORS, 100, False, 0.5)


def survey(
    boxes: list[list[float]],
    *,
    size: tuple[int, int],
    view: View = VIEW,
    rare: int = 0,
    empty: int = 0,
) -> ObjectSurvey:
    """One box per image, the first `rare` of a second class; `empty` images that are not used."""
    images = [
        {"id": k, "file_name": f"{k}.jpg", "height": size[0], "width": size[1]}
        for k in range(len(boxes) + empty)
    ]
    objects = [
        {"id": k + 1, "image_id": k, "category_id": 2 if k < rare else 1, "bbox": box}
        for k, box in enumerate(boxes)
    ]
    classes = [{"id": 1, "name": "common"}, {"id": 2, "name": "seldom"}][: 2 if rare else 1]
    data = {"images": images, "annotations": objects, "categories": classes}
    table = read_annotations(data, [])
    return ObjectSurvey(table, np.arange(len(objects)), view, len(boxes))


def keys(objects: ObjectSurvey) -> dict[str, str]:
    return {k: v for one in suggest(objects, repeat_threshold=None) for k, v in one.keys.items()}


def test_objects_that_fit_need_nothing() -> None:
    rng = np.random.default_rng(0)
    boxes = [[50.0, 50.0, *rng.uniform(50, 300, 2)] for _ in range(60)]
    assert keys(survey(boxes, size=(800, 1000))) == {}


def test_small_and_long_objects_get_their_anchors() -> None:
    boxes = [[101.0 + k, 51.0, 60.0, 7.0 + k % 4] for k in range(80)]
    found = keys(survey(boxes, size=(800, 1000)))
    sizes = [int(each) for each in found["model.rpn.anchor_sizes"].strip("[]").split(",")]
    assert all(18 <= each <= 26 for each in sizes) and sizes == sorted(sizes)
    ratios = [float(each) for each in found["model.rpn.aspect_ratios"].strip("[]").split(",")]
    assert all(0.1 <= each <= 0.2 for each in ratios)
    new = replace(VIEW, anchors=Anchors([[each] for each in sizes], ratios, ANCHORS.strides))
    assert "model.rpn.anchor_sizes" not in keys(survey(boxes, size=(800, 1000), view=new))


def test_image_sizes() -> None:
    lost = keys(survey([[9.0, 9.0, 5.0, 5.0]] * 50, size=(1600, 2000)))
    assert lost["data.test_resize.short_edge"] == "1280"
    assert lost["data.augment.resize.short_edges"] == "[1280]"
    large = keys(survey([[9.0, 9.0, 90.0, 90.0]] * 50, size=(200, 300)))
    assert large["data.test_resize.short_edge"] == "192"
    square = replace(VIEW, short_edge=1024, max_size=1024, is_square=True)
    jittered = keys(survey([[9.0, 9.0, 5.0, 5.0]] * 50, size=(1600, 2000), view=square))
    assert jittered["data.augment.resize.lsj_size"] == "1600"
    assert "data.augment.resize.short_edges" not in jittered


def test_the_threshold_of_repeats_shows_rare_images_four_times() -> None:
    boxes = [[50.0, 50.0, 100.0, 100.0]] * 1000
    assert keys(survey(boxes, size=(800, 1000), rare=20)) == {"data.repeat_threshold": "0.32"}
    assert keys(survey(boxes, size=(800, 1000), rare=400)) == {}
    # images without objects are not trained on, and shares are of the others
    with_empty = survey(boxes, size=(800, 1000), rare=20, empty=1000)
    (suggestion,) = suggest(with_empty, repeat_threshold=None)
    assert suggestion.keys == {"data.repeat_threshold": "0.32"}
    assert suggestion.reason.endswith("an epoch has 1.06 times the samples")


def test_overlapping_crowded_and_absent(tmp_path: Path) -> None:
    objects = survey([[50.0, 50.0, 100.0, 100.0]] * 3, size=(800, 1000))
    table = replace(objects.table, image_of=np.zeros(3, np.int64))
    crowded = ObjectSurvey(table, objects.rows, replace(VIEW, most=2), 3)
    assert crowded.is_overlapped.all()
    (few, many) = crowded.findings(is_train=False), crowded.findings(is_train=True)
    assert [each.what for each in few] == ["have more than 2 objects, up to 3"]
    assert many[0] == few[0] and "have few objects ('common' has 3" in many[1].what
