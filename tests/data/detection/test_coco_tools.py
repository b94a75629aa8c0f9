"""COCO files as annotation tools and scripts that join files write them: what looks wrong is named,
what is certain is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resdet.data.detection.readers import read_annotations, read_classes
from resdet.files.findings import DataError
from tests.data.make import SQUARE, annotation, dataset, write_coco

CAT, DOG = {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}


def found(tmp_path: Path, annotations: list[Any], **options: Any) -> str:
    images, file = write_coco(tmp_path, annotations, **options)
    return "\n".join(map(str, dataset(images, file, mask_size=None).findings))


def test_categories_of_joined_files(tmp_path: Path) -> None:
    text = found(tmp_path, [annotation()], categories=[CAT, DOG, CAT, DOG])
    assert "category 3 ('cat') is listed again; it is read once" in text
    with pytest.raises(DataError, match="category 3: is given more than once, as 'cat' and 'dog'"):
        found(tmp_path, [annotation()], categories=[CAT, {"id": 3, "name": "dog"}])
    # Roboflow repeats the name of a project's only class
    text = found(tmp_path, [annotation()], categories=[{"id": 0, "name": "cat"}, CAT])
    assert "category 3 has the name of category 0, 'cat'; they count as two classes" in text


@pytest.mark.parametrize(("ids", "unknown", "unused"), [((1, 2), 0, 2), ((0, 1), 2, 0)])
def test_category_ids_shifted_by_one(
    tmp_path: Path, ids: tuple[int, int], unknown: int, unused: int
) -> None:
    classes = [{"id": ids[0], "name": "cat"}, {"id": ids[1], "name": "dog"}]
    objects = [annotation(id=1, category_id=unknown), annotation(id=2, category_id=1)]
    text = found(tmp_path, objects, categories=classes)
    assert f"category_id {unknown} is none, and no object has {unused}: the ids of objects" in text
    objects.append(annotation(id=3, category_id=unused))
    assert "look shifted" not in found(tmp_path, objects, categories=classes)


def test_turned_boxes_of_cvat(tmp_path: Path) -> None:
    turned = [{"rotation": 0.0}, {"rotation": 33.5, "occluded": False}, {"rotation": 360}, None, []]
    objects = [
        annotation(id=k, bbox=[k, 9, 9, 9], segmentation=None, attributes=given)
        for k, given in enumerate(turned, start=1)
    ]
    text = found(tmp_path, objects)
    assert "annotation 2 with a 'rotation' in the 'attributes' (CVAT)" in text
    assert text.count("\n") == 0
    assert found(tmp_path, [each for each in objects if each["id"] != 2]) == ""


def test_many_crowd_regions(tmp_path: Path) -> None:
    boxes = [annotation(id=k, bbox=[k, 9, 30, 9], iscrowd=int(k > 8)) for k in range(1, 12)]
    assert "3 of 11 objects are crowd regions (iscrowd 1)" in found(tmp_path, boxes)
    assert found(tmp_path, boxes[:10]) == ""


def test_repeated_objects(tmp_path: Path) -> None:
    objects = [annotation(id=1), annotation(id=2, bbox=[10, 10, 20, 20.5]), annotation(id=5)]
    text = found(tmp_path, objects)
    assert "1 of 3 objects have the image, class and bbox of another one (annotation 5" in text
    assert "annotation 5 that of 1" in text
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    others = [annotation(id=2, category_id=7), annotation(id=3, image_id=2)]
    assert found(tmp_path, [annotation(id=1), *others], images=images) == ""


@pytest.mark.parametrize(
    "shape",
    [
        [[[10, 10], [30, 10], [30, 30], [10, 30]]],
        [[10, 10], [30, 10], [30, 30], [10, 30]],
        [[[10, 10], [30, 10.0], [30, 30], [10, 30]]] * 2,
    ],
)
def test_polygons_as_points(tmp_path: Path, shape: Any) -> None:
    images, file = write_coco(tmp_path, [annotation(segmentation=shape)])
    data = dataset(images, file, mask_size=28)
    (text,) = map(str, data.findings)
    assert "has points [x, y] as segmentation, not flat lists; its polygons are taken" in text
    assert data.table.outlines is not None
    assert data.table.outlines.points[:4].reshape(-1).tolist() == SQUARE


def test_outlines_that_none_can_use(tmp_path: Path) -> None:
    """The error does not say that there are none."""
    far = [[value + 1000 for value in SQUARE]]
    images, file = write_coco(tmp_path, [annotation(segmentation=far)])
    with pytest.raises(DataError, match=r"no object has a usable seg.*\n.*do not touch its bbox"):
        dataset(images, file, mask_size=28)
    images, file = write_coco(tmp_path, [annotation(segmentation=[])])
    with pytest.raises(DataError, match="no object has a segmentation"):
        dataset(images, file, mask_size=28)


@pytest.mark.parametrize(
    ("content", "tool"),
    [
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "Label Studio's own"),
        ([{"image": "a.jpg", "annotations": [{"label": "x"}]}], "CreateML"),
        ({"a.jpg123": {"filename": "a.jpg", "regions": []}}, "VGG Image Annotator"),
        ({"info": {}, "categories": {}, "items": []}, "Datumaro"),
        ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    ],
)
def test_files_of_other_tools_are_recognised(tmp_path: Path, content: Any, tool: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"a\.json: this is {tool}.*export .* as COCO"):
        read_annotations(str(path), [], format="coco")


def heading(names: list[str], **first: Any) -> list[dict[str, Any]]:
    """Roboflow's categories: the first has the name of the project."""
    top = {"id": 0, "name": "animals", "supercategory": "none"} | first
    return [top] + [
        {"id": k, "name": name, "supercategory": top["name"]}
        for k, name in enumerate(names, start=1)
    ]


def test_roboflow_as_it_unpacks(tmp_path: Path) -> None:
    """The images beside the file, and a category that no object has."""
    objects = [annotation(id=0, category_id=1), annotation(id=1, category_id=2)]
    _, file = write_coco(tmp_path, objects, categories=heading(["cat", "dog"]))
    folder = tmp_path / "train"
    folder.mkdir()
    Path(file).rename(folder / "_annotations.coco.json")
    (tmp_path / "images" / "1.png").rename(folder / "1.png")
    data = dataset(str(folder), str(folder), mask_size=None)
    assert data.findings == []
    assert data.table.class_names == ["cat", "dog"]
    assert data.table.category_ids == [1, 2]
    assert read_classes(str(folder), None, None) == (["cat", "dog"], [1, 2])


@pytest.mark.parametrize(
    ("categories", "category", "names"),
    [
        (heading(["animals"]), 1, ["animals"]),
        (heading(["cat", "dog"]), 0, ["animals", "cat", "dog"]),
        (heading(["cat"], supercategory="pets"), 1, ["animals", "cat"]),
        ([*heading(["cat"]), {"id": 9, "name": "dog", "supercategory": "x"}], 1,
         ["animals", "cat", "dog"]),
        (heading([]), 0, ["animals"]),
    ],
)  # fmt: skip
def test_a_category_that_names_the_others(
    tmp_path: Path, categories: list[dict[str, Any]], category: int, names: list[str]
) -> None:
    _, file = write_coco(tmp_path, [annotation(category_id=category)], categories=categories)
    assert read_annotations(file, []).class_names == names
    assert read_classes(file, None, None)[0] == names


@pytest.mark.parametrize(
    "name", ["images/0a1b2c3d-1.png", "images\\1.png", "images/..\\images\\1.png",
             "../../media/upload/3/0a1b2c3d-1.png", "/data/local-files/?d=images/1.png",
             "http://localhost:8080/data/upload/3/0a1b2c3d-1.png"],
)  # fmt: skip
def test_names_of_label_studio(tmp_path: Path, name: str) -> None:
    images = [{"id": 0, "file_name": "1.png", "height": 40, "width": 60}]
    pictures, file = write_coco(
        tmp_path, [annotation(image_id=0, segmentation=[], ignore=0)], images=images
    )
    Path(file).write_text(Path(file).read_text().replace('"1.png"', json.dumps(name)))
    is_below = name.startswith(("images", "/data"))
    for folder in (pictures, str(tmp_path)) if is_below else (pictures,):
        data = dataset(folder, file, mask_size=None)
        assert len(data) == 1
        assert len(data.findings) == 1
        assert "this file is taken" in str(data.findings[0])
