"""Holding out images: shares by class, the same whatever the order, and data that changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.data.detection.merge import merge_tables
from resdet.data.detection.readers import coco as coco_reader
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.split import (
    PARTS,
    Split,
    hold_out,
    image_classes,
    image_groups,
    read_split,
    stratify,
)
from resdet.data.detection.table import AnnotationTable, Source
from resdet.files.findings import DataError


def coco(classes: list[list[int]], num_classes: int = 5) -> AnnotationTable:
    """A table with one object per class of each image."""
    pairs = [(image, label) for image, labels in enumerate(classes) for label in labels]
    data = {
        "images": [{"id": i + 1, "file_name": f"{i}.png"} for i in range(len(classes))],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(num_classes)],
        "annotations": [
            {"id": n + 1, "image_id": i + 1, "category_id": k, "bbox": [0, 0, 9, 9]}
            for n, (i, k) in enumerate(pairs)
        ],
    }
    return read_annotations(data, [])


def counts(classes: list[list[int]], is_val: np.ndarray, num_classes: int) -> np.ndarray:
    """(num_classes, 2) images of each class that are trained on and held out."""
    result = np.zeros((num_classes, 2), int)
    for labels, part in zip(classes, is_val.astype(int), strict=True):
        result[labels, part] += 1
    return result


def test_each_class_keeps_its_share() -> None:
    rng = np.random.default_rng(0)
    classes = [np.unique(rng.zipf(1.4, rng.integers(1, 5)) % 30).tolist() for _ in range(2000)]
    is_val = stratify(classes, [str(i) for i in range(2000)], [0.8, 0.2])
    assert abs(is_val.mean() - 0.2) < 0.005
    table = counts(classes, is_val, 30)
    total = table.sum(axis=1)
    assert (np.abs(table[:, 1] - 0.2 * total) <= np.maximum(1, 0.01 * total)).all()
    # a random choice of as many images is off by far more
    chance = counts(classes, rng.permutation(is_val), 30)
    far = np.abs(np.stack([table, chance])[:, :, 1] - 0.2 * total).sum(axis=1)
    assert far[0] < 0.2 * far[1]


def test_one_label_per_image_is_split_to_the_image() -> None:
    classes = [[k] for k in range(7) for _ in range(10 + 5 * k)]
    is_val = stratify(classes, [str(i) for i in range(len(classes))], [0.8, 0.2])
    assert counts(classes, is_val, 7)[:, 1].tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(("images", "held_out"), [(1, 0), (2, 0), (3, 1), (5, 1), (8, 2)])
def test_small_classes_are_trained_on_first(images: int, held_out: int) -> None:
    classes = [[0]] * images + [[1]] * 40
    is_val = stratify(classes, [str(i) for i in range(len(classes))], [0.8, 0.2])
    assert is_val[:images].sum() == held_out
    assert is_val.sum() == held_out + 8


def test_images_without_objects_are_a_class() -> None:
    table = coco([[0]] * 10 + [[]] * 10)
    assert image_classes(table) == [[0]] * 10 + [[5]] * 10
    split = hold_out(table, 0.2, 0)
    assert sorted(key > 10 for key in split.val) == [False, False, True, True]


def test_order_of_images_and_objects_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    classes = [np.unique(rng.integers(0, 5, 3)).tolist() for _ in range(60)]
    table = coco(classes)
    split = hold_out(table, 0.25, 7)
    rows = rng.permutation(60)
    back = np.argsort(rows)
    shuffled = replace(
        table,
        image_ids=table.image_ids.select(rows),
        file_names=table.file_names.select(rows),
        image_of=back[table.image_of],
    )
    again = hold_out(shuffled.select(rng.permutation(len(table.labels))), 0.25, 7)
    assert sorted(again.val) == sorted(split.val)
    assert sorted(hold_out(table, 0.25, 8).val) != sorted(split.val)
    assert hold_out(table, 0.25, 7) == split


@pytest.mark.parametrize(
    ("images", "share", "left_out"),
    [(1, 0.2, "validate"), (3, 0.05, "validate"), (1, 0.9, "train"), (2, 0.99, "train")],
)
def test_parts_without_images(images: int, share: float, left_out: str) -> None:
    with pytest.raises(DataError, match=rf"leaves none to {left_out} on; change the share"):
        hold_out(coco([[0]] * images), share, 0)


def test_parts_and_files(tmp_path: Path) -> None:
    table = coco([[i % 5] for i in range(20)])
    split = hold_out(table, 0.5, 0)
    train, val, test = split.parts(table).values()
    assert not len(test.image_ids)
    assert train.image_ids == split.train and val.image_ids == split.val
    assert sorted(split.train + split.val) == list(range(1, 21))
    assert len(train.labels) + len(val.labels) == 20
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    named = replace(split, val=["a", "1"], train=["ü"])
    named.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == named


def test_data_that_changed() -> None:
    split = hold_out(coco([[0]] * 10), 0.2, 0)
    with pytest.raises(DataError, match=r"split.json: 2 new \(11, 12\); restore the files"):
        split.parts(coco([[0]] * 12))
    with pytest.raises(DataError, match=r"1 missing \(10\)"):
        split.parts(coco([[0]] * 9))
    train, val, _ = split.parts(coco([[1]] * 10)).values()
    assert len(train.image_ids) == 8 and len(val.image_ids) == 2


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", '{"train": [1], "val": [2], "share": 0.2, "seed": 0, "groups": 3}'),
        *('{"train": [1], "val": [2], "share": 0.2, "seed": 0, "test": 3}', "{"),
        '{"train": [1], "val": [[2]], "share": 0.2, "seed": 0}',
    ],
)
def test_files_that_are_no_split(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content)
    with pytest.raises(DataError, match=r"split\.json"):
        read_split(tmp_path / "split.json")


def test_ids_of_all_kinds_are_different_keys() -> None:
    split = Split([1, "1"], [2], 0.3, 0)
    table = coco([[0], [0]])
    with pytest.raises(DataError, match=r"1 missing \('1'\)"):
        split.parts(table)


def test_three_parts_keep_the_shares_of_each_class(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    classes = [np.unique(rng.zipf(1.4, rng.integers(1, 5)) % 12).tolist() for _ in range(1000)]
    parts = stratify(classes, [str(i) for i in range(1000)], [0.7, 0.2, 0.1])
    for part, share in enumerate((0.7, 0.2, 0.1)):
        assert abs((parts == part).mean() - share) < 0.006
        for label in range(12):
            own = np.array([label in each for each in classes])
            assert abs((parts[own] == part).sum() - share * own.sum()) <= 0.02 * own.sum() + 1.5
    split = hold_out(coco([[i % 5] for i in range(50)]), 0.2, 3, test=0.1)
    assert [len(split.train), len(split.val), len(split.test)] == [35, 10, 5]
    split.write(tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == split
    with pytest.raises(
        DataError, match=r"data\.split\.test: 0\.01 of 20 image\(s\) leaves none to t"
    ):
        hold_out(coco([[0]] * 20), 0.2, 0, test=0.01)


def test_groups_stay_together() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 20, 60)
    groups = [f"p{number}" for number, size in enumerate(sizes) for _ in range(size)]
    classes = [np.unique(rng.integers(0, 4, 2)).tolist() for _ in groups]
    table = coco(classes)
    split = hold_out(table, 0.2, 0, test=0.2, groups=groups, grouped_by="group_key=patient")
    part_of = {key: part for part in PARTS for key in getattr(split, part)}
    for name in set(groups):
        assert len({part_of[i + 1] for i, group in enumerate(groups) if group == name}) == 1
    for part in ("val", "test"):
        assert abs(len(getattr(split, part)) / len(groups) - 0.2) < 0.03
    split.check_groups(table, groups)
    one, two = split.train[0], split.val[0]
    assert isinstance(one, int) and isinstance(two, int)
    groups[one - 1] = groups[two - 1]
    with pytest.raises(DataError, match=r"images of group p\d+ are in (train|val) and in "):
        split.check_groups(table, groups)
    with pytest.raises(DataError, match=r"0\.2 of 2 group\(s\) leaves none to validate on"):
        hold_out(coco([[0]] * 20), 0.2, 0, groups=["a", "b"] * 10)


def test_groups_of_names_and_keys() -> None:
    table = coco([[0]] * 12)
    groups, label = image_groups(table, None, "^(.).*")
    assert (groups, label) == ([*"0123456789", "1", "1"], "group_pattern=^(.).*")
    assert image_groups(table, None, r"\d")[0] == groups
    assert image_groups(table, None, None) == (None, None)
    with pytest.raises(DataError, match=r"group_pattern=\^1: 9 of 12 images have no group \(im"):
        image_groups(table, None, "^1")
    with pytest.raises(DataError, match=r"group_key: only images of COCO files have keys; give"):
        image_groups(table, "patient", None)
    data: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{i}.png", "patient": i // 2} for i in range(1, 5)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [],
    }
    read = coco_reader.read(Source("a.json", data=data, group_key="patient"), [])
    assert image_groups(read, "patient", None) == (["0", "1", "1", "2"], "group_key=patient")
    again = merge_tables([read, replace(read, files=["b.json"])])
    assert again.groups is not None and list(again.groups) == ["0", "1", "1", "2"] * 2
    del data["images"][2]["patient"]
    read = coco_reader.read(Source("a.json", data=data, group_key="patient"), [])
    with pytest.raises(DataError, match=r"group_key=patient: 1 of 4 images have no group \(im"):
        image_groups(read, "patient", None)
