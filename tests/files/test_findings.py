"""Everything bad in a file is found, named, counted, and with `strict` an error."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.files.findings import DataError
from tests.data.make import SQUARE, annotation, dataset, write_coco

OTHER = [11, 11, 18, 18]
FAR = [50.0, 30.0, 58.0, 30.0, 58.0, 38.0]
GOOD_CODE = coco_mask.encode(np.asfortranarray(np.eye(40, 60, dtype=np.uint8)))["counts"].decode()


def rle(**changes: Any) -> dict[str, Any]:
    return {"size": [40, 60], "counts": GOOD_CODE, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 9}, "belongs to image 9, which is not in the file"),
        ({"image_id": [1]}, r"belongs to image [1]"),
        ({"category_id": 4}, "has category_id 4, which is not among the categories"),
        ({"bbox": [5, 5, 0, 9]}, "bbox [5, 5, 0, 9] without width"),
        ({"bbox": [5, 5, 9, 0]}, "without height"),
        ({"bbox": [5, 5, -3, 9]}, "the sizes not negative"),
        ({"bbox": [70, 5, 9, 9]}, "outside its image of 60×40"),
        ({"bbox": [5, math.nan, 9, 9]}, "not four finite numbers"),
        ({"bbox": [5, 5, 9]}, "not four finite numbers"),
        ({"bbox": "5 5 9 9"}, "not four finite numbers"),
        ({"bbox": None, "segmentation": None}, "has bbox None"),
        ({"iscrowd": "2"}, "has iscrowd '2', not 0 or 1"),
    ],
)
def test_unusable_annotations_are_dropped(
    tmp_path: Path, change: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = annotation(**{"id": 17, **change})
    source = write_coco(tmp_path, [bad, annotation(id=18, bbox=OTHER)])
    with caplog.at_level(logging.WARNING, logger="resdet"):
        data = dataset(*source)
    [finding] = data.findings
    assert finding.file == source[1]
    assert finding.item == "annotation 17"
    assert message in finding.what
    assert "left out" in finding.remedy
    assert "annotation 17" in caplog.text
    assert len(data[(0, 0)].target.labels) == 1
    assert data.table.annotation_ids[data.rows].tolist() == [18]
    with pytest.raises(DataError, match=r"(?s)1 finding.*annotation 17"):
        dataset(*source, strict=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": None}, "without a usable 'segmentation'"),
        ({"segmentation": []}, "without a usable 'segmentation'"),
        ({"segmentation": "x"}, "segmentation of type str"),
        ({"segmentation": [[1, 2, 3, 4]]}, "no polygon of three or more points"),
        ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "no polygon of three"),
        ({"segmentation": [FAR]}, "do not touch its bbox"),
        (
            {"segmentation": rle(size=[60, 40])},
            "its mask is 60×40 (height × width)",
        ),
        ({"segmentation": rle(counts="")}, "counts of its RLE are broken"),
        ({"segmentation": rle(counts="~~")}, "counts of its RLE are broken"),
        ({"segmentation": rle(counts=GOOD_CODE[:-3])}, "do not add up"),
        ({"segmentation": rle(counts=[5, 5])}, "do not add up"),
        ({"segmentation": {"counts": "00"}}, "an RLE needs"),
    ],
)
def test_a_box_stands_in_for_a_broken_outline(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source = write_coco(tmp_path, [annotation(id=17, **change), annotation(id=18, bbox=OTHER)])
    data = dataset(*source)
    [finding] = data.findings
    assert finding.item == "annotation 17"
    assert message in finding.what
    assert "training takes its box as its mask" in finding.remedy
    target = data[(0, 0)].target
    assert target.masks is not None
    assert target.masks[0].all()
    assert dataset(*source, mask_size=None).findings == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "has no bbox"),
        ({"bbox": None, "segmentation": rle()}, "has no bbox"),
        ({"bbox": [-9, 10, 39, 20]}, "past its image of 60×40"),
        ({"segmentation": SQUARE}, "flat list"),
        ({"segmentation": [SQUARE, [1, 2]]}, "1 polygon(s) that are not"),
        ({"id": "x"}, "without a usable 'id'"),
        ({"id": 10**30}, "without a usable 'id'"),
        ({"id": math.inf}, "without a usable 'id'"),
        ({"id": 18}, "the id of another annotation"),
        ({"id": None}, "without a usable 'id'"),
        ({"area": None}, "without a usable 'area'"),
        ({"iscrowd": None}, "without a usable 'iscrowd'"),
    ],
)
def test_repairs_keep_the_object(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    objects = [annotation(id=18, bbox=OTHER), annotation(**{"id": 17, **change})]
    source = write_coco(tmp_path, objects)
    data = dataset(*source)
    [finding] = data.findings
    assert message in finding.what
    assert len(data[(0, 0)].target.labels) == 2
    ids = data.table.annotation_ids.tolist()
    assert len(set(ids)) == 2 and min(ids) > 0
    assert (data.table.areas > 0).all() and not data.table.crowd.any()
    with pytest.raises(DataError, match="have to be fixed"):
        dataset(*source, strict=True)


@pytest.mark.parametrize("segmentation", [[[10, 10, 30, 10, 10, 30]], rle()])
@pytest.mark.parametrize("mask_size", [112, None])
def test_areas_are_those_of_pycocotools(
    tmp_path: Path, segmentation: Any, mask_size: int | None
) -> None:
    source = write_coco(tmp_path, [annotation(area=None, segmentation=segmentation)])
    code = segmentation
    if isinstance(segmentation, list):
        code = coco_mask.merge(coco_mask.frPyObjects(segmentation, 40, 60))
    expected = coco_mask.area(code) if mask_size else 400  # outlines are not read without masks
    assert dataset(*source, mask_size=mask_size).table.areas == [expected]


def test_bad_images_are_named(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [
        {"id": 1, "file_name": "1.png", "height": 40, "width": 60},
        {"id": 1, "file_name": "2.png", "height": 40, "width": 60},
        {"id": 3, "height": 40, "width": 60},
        {"file_name": "4.png", "height": 40, "width": 60},
        {"id": 5, "file_name": "5.png"},
        {"id": 6, "file_name": "6.png", "height": 40, "width": 60},
        {"id": 7, "file_name": "7.PNG", "height": 40, "width": 60},
        {"id": 8, "file_name": "8.png", "height": 0, "width": math.nan},
        {"id": 9, "file_name": "9.png", "height": 10**12, "width": 60},
    ]
    source = write_coco(tmp_path, [annotation(), annotation(id=2, image_id=6)], images=images)
    folder = Path(source[0])
    (folder / "6.png").unlink()
    (folder / "7.PNG").rename(folder / "7.png")
    (folder / "8.png").write_bytes(b"nothing")
    data = dataset(*source)
    assert data.image_ids == [5, 7, 9]
    assert data.sizes.tolist() == [[40, 60], [40, 60], [40, 60]]
    found = {finding.item: finding.what for finding in data.findings}
    assert found["image 1"] == "is the id of 2 images ('1.png', '2.png')"
    assert "no file_name" in found["image 3"]
    assert "no id" in found["images[3] (4.png)"]
    assert "no height and width" in found["image 5 (5.png)"]
    assert "has no file in" in found["image 6 (6.png)"]
    assert "is 7.png in" in found["image 7 (7.PNG)"]
    assert "can't be read" in found["image 8 (8.png)"]
    assert "no height and width" in found["image 9 (9.png)"]
    assert found["image 8"] == "has height 0 and width nan"
    assert found["image 9"] == "has height 1000000000000 and width 60"
    assert len(found) == 10  # and not the annotation of the image that is left out


def test_missing_sizes_follow_exif(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation()], images=[{"id": 1, "file_name": "1.png"}])
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(np.zeros((60, 40), np.uint8)).save(Path(source[0]) / "1.png", exif=exif)
    assert dataset(*source).sizes.tolist() == [[40, 60]]


def test_the_log_is_compact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [annotation(id=100 + i, bbox=[1, 1, 0, 5]) for i in range(20)]
    source = write_coco(tmp_path, [annotation(), *bad])
    with caplog.at_level(logging.WARNING, logger="resdet"):
        data = dataset(*source)
    assert len(data.findings) == 20
    [record] = caplog.records
    assert "20× annotation 100 has bbox" in record.getMessage()
    assert "and 17 more" in record.getMessage()
    with pytest.raises(DataError) as caught:
        dataset(*source, strict=True)
    assert str(caught.value).count("annotation 1") == 20


def test_rounding_past_the_border_is_no_finding(tmp_path: Path) -> None:
    source = write_coco(tmp_path, [annotation(bbox=[10.5, 10.5, 49.9, 29.7])])
    data = dataset(*source, strict=True)
    np.testing.assert_allclose(data[(0, 0)].target.boxes, [[10.5, 10.5, 60, 40]])
