"""COCO data by path alone: real sets, several files, class subsets, evaluation's ground truth."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from resdet.data.detection import checks
from resdet.data.detection.dataset import read_dataset
from resdet.data.detection.resizes import ShortEdge
from resdet.data.detection.transforms import TestTransform, TrainTransform
from resdet.files.findings import DataError, missing_data_error
from tests.data.make import annotation, dataset, train_transform, write_coco


def coco_paths(shared_data: Path, name: str = "coco128_inst") -> tuple[str, str]:
    folder = shared_data / name
    return str(folder / "images"), str(folder / "annotations" / "train.json")


def test_coco_as_it_is(shared_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, file = coco_paths(shared_data)
    with caplog.at_level(logging.INFO, logger="resdet"):
        data = read_dataset(images, file, transform=train_transform(), strict=True)
    assert data.findings == []
    assert "102 images, 724 objects of 80 classes" in caplog.text
    assert "10 crowd regions left out of the targets" in caplog.text
    assert data.category_ids[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]
    assert data.class_names[11] == "stop sign"
    raw = json.loads(Path(file).read_text())
    first = [a for a in raw["annotations"] if a["image_id"] == data.image_ids[0]]
    target = data[(0, 0)].target
    kept = [data.category_ids[label] for label in target.labels]
    assert kept == [a["category_id"] for a in first if not a["iscrowd"]]
    assert target.masks is not None
    assert target.masks.dtype == torch.uint8
    assert target.masks.shape == (len(kept), 112, 112)
    assert target.image_id == data.image_ids[0]


def test_boxes_only_data(shared_data: Path) -> None:
    images, file = coco_paths(shared_data, "bccd")
    data = dataset(images, file, mask_size=None)
    assert data.findings == []
    assert data[(0, 0)].target.masks is None
    with pytest.raises(DataError, match=r"no object has a segmentation.*mask_head=null"):
        dataset(images, file)


def test_masks_lie_where_pycocotools_has_them(shared_data: Path, nuclei: Path) -> None:
    """At the original size, masks put back into their boxes overlap with the full-size ones."""
    sources = [
        coco_paths(shared_data),
        (str(nuclei / "images"), str(nuclei / "annotations/train.json")),
    ]
    for images, file in sources:
        data = read_dataset(images, file, transform=TestTransform(short_edge=1, max_size=1))
        reference = COCO(file)
        height, width = data.sizes[3].tolist()
        data.transform = TestTransform(short_edge=min(height, width), max_size=5000)
        target = data[(0, 3)].target
        assert target.masks is not None
        overlaps = []
        rows = data.rows[data.starts[3] : data.stops[3]]
        for row, box, mask in zip(rows, target.boxes.tolist(), target.masks, strict=True):
            full = reference.annToMask(reference.anns[int(data.table.annotation_ids[row])])
            x0, y0, x1, y1 = (round(value) for value in box)
            if min(x1 - x0, y1 - y0) < 16:
                continue
            small = Image.fromarray(mask.numpy() * 255).resize((x1 - x0, y1 - y0))
            pasted = np.zeros((height, width), bool)
            pasted[y0:y1, x0:x1] = np.asarray(small) > 127
            overlaps.append((pasted & (full > 0)).sum() / (pasted | (full > 0)).sum())
        assert np.mean(overlaps) > 0.9


def test_classes_give_the_label_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_coco(tmp_path, [annotation(), annotation(id=2, category_id=7)])
    data = dataset(*source)
    assert (data.class_names, data.category_ids) == (["cat", "dog"], [3, 7])
    assert data[(0, 0)].target.labels.tolist() == [0, 1]
    data = dataset(*source, classes=["dog", "cat"])
    assert data[(0, 0)].target.labels.tolist() == [1, 0]
    with caplog.at_level(logging.INFO, logger="resdet"):
        data = dataset(*source, classes=["dog"])
    assert "1 objects of other classes left out" in caplog.text
    assert data[(0, 0)].target.labels.tolist() == [0]
    assert data.category_ids == [7]
    with pytest.raises(DataError, match="no category 'dogs'; did you mean dog"):
        dataset(*source, classes=["dogs"])


def test_images_without_objects(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2, 3)]
    crowd = annotation(id=2, image_id=3, iscrowd=1)
    source = write_coco(tmp_path, [annotation(), crowd], images=images)
    assert dataset(*source, keep_empty=False).image_ids == [1]
    data = dataset(*source)
    assert data.image_ids == [1, 2, 3]
    assert data.table.crowd.tolist() == [False, True]
    target = data[(0, 1)].target
    assert target.boxes.shape == (0, 4)
    assert target.masks is not None and target.masks.shape == (0, 112, 112)
    source = write_coco(tmp_path, [], images=images, name="none.json")
    with pytest.raises(DataError, match="no image has an object that can be used"):
        dataset(*source, keep_empty=False)


def test_several_files_agree_by_name(tmp_path: Path) -> None:
    first = write_coco(tmp_path, [annotation()])
    other = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    mine = [annotation(category_id=1), annotation(id=5, category_id=2)]
    second = write_coco(tmp_path, mine, name="b.json", categories=other)
    data = dataset([first[0], second[0]], [first[1], second[1]])
    (finding,) = data.findings
    assert "image 2 (1.png) has the file of image 1 (1.png)" in str(finding)
    assert data.image_ids == [1, 2]
    assert data.category_ids == [3, 7]
    assert data[(0, 1)].target.labels.tolist() == [1, 0]
    assert data.table.labels.tolist() == [0, 1, 0]
    assert len(set(data.table.annotation_ids.tolist())) == 3
    assert data.table.image_of.tolist() == [0, 1, 1]
    third = write_coco(tmp_path, [], name="c.json", categories=[{"id": 1, "name": "dog"}])
    with pytest.raises(
        DataError, match=r"c\.json: its categories differ .*missing 'cat', extra none"
    ):
        dataset([first[0], third[0]], [first[1], third[1]])
    only_dogs = dataset([first[0], third[0]], [first[1], third[1]], classes=["dog"])
    assert only_dogs.category_ids == [7]
    with pytest.raises(DataError, match=r"1 image folder\(s\) and 2 annotation file\(s\)"):
        dataset(first[0], [first[1], second[1]])


def test_string_image_ids(tmp_path: Path) -> None:
    images = [{"id": "a", "file_name": "1.png", "height": 40, "width": 60}]
    source = write_coco(tmp_path, [annotation(image_id="a")], images=images)
    again = write_coco(tmp_path, [annotation(image_id="a")], images=images, name="b.json")
    data = dataset([source[0], again[0]], [source[1], again[1]])
    assert data.image_ids == ["a", f"{again[1]}:a"]
    assert data.table.image_of.tolist() == [0, 1]


def test_missing_paths_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        dataset(str(tmp_path / "nowhere"), str(tmp_path / "none.json"))
    text = str(caught.value)
    missing = {
        "data.images": [str(tmp_path / "nowhere")],
        "data.annotations": [str(tmp_path / "none.json")],
    }
    assert "datasets/coco" not in text and "datasets/README.md" in text
    assert "data.train.images=" in text
    assert text == str(missing_data_error(missing))
    assert f"{tmp_path / 'none.json'} (data.annotations)" in text
    shipped = missing_data_error({"data.val.images": ["datasets/coco/val2017"]})
    assert "datasets/coco/train2017" in str(shipped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1, column 2: not valid JSON"),
        ("[]", "this is a list, as detections are"),
        ("{}", "no list 'images'"),
        (
            '{"images": [3], "annotations": [], "categories": [{"id": 1, "name": "a"}]}',
            r"images\[0\] is 3",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "has no categories"),
        ('{"images": [], "annotations": [], "categories": [{"name": "a"}]}', "needs an id"),
        (
            '{"images": [], "annotations": [], "categories": '
            '[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            "category 1: is given more than once, as 'a' and 'b'",
        ),
    ],
)
def test_files_that_are_no_coco(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=f"x.json: .*{message}|x.json: {message}"):
        dataset(str(tmp_path), str(tmp_path / "x.json"))


def test_a_wrong_folder_is_an_error(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation()])
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="none of the images is in"):
        dataset(str(tmp_path / "other"), source[1])


def test_sizes_that_do_not_agree_name_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, hint in (((50, 60), "correct width and height"), ((60, 40), "EXIF orientation")):
        images: list[dict[str, Any]] = [
            {"id": 1, "file_name": "1.png", "height": size[0], "width": size[1]}
        ]
        source = write_coco(tmp_path, [annotation()], images=images)
        with pytest.raises(
            DataError, match=r"image 1 \(.*1\.png\) is 60×40 pixels upright, annotated as"
        ):
            dataset(*source)
        # a set too large for a look at every header finds it on reading
        monkeypatch.setattr(checks, "HEADERS_AT_START", 0)
        with pytest.raises(DataError, match=rf"1\.png: is 60×40 pixels, but .*a\.json.*{hint}"):
            dataset(*source)[(0, 0)]
        monkeypatch.undo()


def test_bad_files_are_left_out_at_the_start_and_counted(tmp_path: Path) -> None:
    images = [
        {"id": i, "file_name": f"{i}.png", "height": 40, "width": 60 if i != 3 else 61}
        for i in (1, 2, 3, 4)
    ]
    annotations = [annotation(id=i, image_id=i) for i in (1, 2, 3, 4)]
    source = write_coco(tmp_path, annotations, images=images)
    (Path(source[0]) / "2.png").write_bytes(b"broken")
    file = Path(source[0]) / "4.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:4000])  # its header is whole
    data = dataset(*source)
    assert data.image_ids == [1, 4]
    assert [str(f).split(" (")[0][-7:] for f in data.findings] == ["image 2", "image 3"]
    assert dataset(*source, decode_all=True).image_ids == [1]
    with pytest.raises(DataError, match=r"2 finding\(s\).*"):
        dataset(*source, strict=True)


def test_exif_turned_images_match_upright_annotations(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation()])
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((60, 40, 3), np.uint8)  # turned by 90°, it is 60 wide
    Image.fromarray(stored).save(Path(source[0]) / "1.png", exif=exif)
    assert dataset(*source)[(0, 0)].original_size == (40, 60)


def test_samples_depend_on_seed_epoch_and_index_alone(nuclei: Path) -> None:
    source = (str(nuclei / "images"), str(nuclei / "annotations" / "train.json"))
    data = read_dataset(*source, transform=train_transform(), seed=3)
    same = read_dataset(*source, transform=train_transform(), seed=3)
    other = read_dataset(*source, transform=train_transform(), seed=4)
    shapes = set()
    for epoch in range(8):
        sample, again = data[(epoch, 7)], same[(epoch, 7)]
        assert torch.equal(sample.image, again.image)
        assert torch.equal(sample.target.boxes, again.target.boxes)
        shapes.add((tuple(sample.image.shape), float(sample.target.boxes[0, 0])))
    assert len(shapes) > 2
    assert any(not torch.equal(data[(e, 7)].image, other[(e, 7)].image) for e in range(8))


def test_a_flipped_image_of_one_pixel(tmp_path: Path) -> None:
    transform = TrainTransform(resize=ShortEdge([40], 1000), flip_prob=1, crop=(1, 1))
    data = dataset(*write_coco(tmp_path, [annotation()]), transform=transform)
    assert data[(0, 0)].image.shape == (3, 1, 1)


def test_images_above_the_limit_of_pixels_are_left_out(shared_data: Path) -> None:
    source, transform = coco_paths(shared_data), TestTransform(short_edge=1, max_size=1)
    every = read_dataset(*source, transform=transform)
    limit = int(np.median(every.sizes.prod(axis=1))) - 1
    small = read_dataset(*source, transform=transform, max_pixels=limit)
    assert 0 < len(small) < len(every)
    assert small.max_pixels == limit and (small.sizes.prod(axis=1) <= limit).all()
