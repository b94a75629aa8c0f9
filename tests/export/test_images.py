"""Which images an exported model is checked and calibrated on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from resdet.config.loading import override_config
from resdet.errors import UserError
from resdet.export.images import images_to_calibrate, images_to_check
from resdet.files.images import read_image
from resdet.models.rcnn import RCNN
from tests.models.tiny_classifier import configured
from tests.models.tiny_detector import make_detector


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, nuclei: Path) -> Path:
    """images/ and val.json of five images."""
    root = tmp_path_factory.mktemp("data")
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    truth["images"] = truth["images"][:5]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in ids]
    (root / "val.json").write_text(json.dumps(truth))
    (root / "images").mkdir()
    for image in truth["images"]:
        shutil.copy(nuclei / "images" / image["file_name"], root / "images")
    return root


def detector(data: Path) -> RCNN:
    model = make_detector()
    section = f"{{images: {data / 'images'}, annotations: {data / 'val.json'}}}"
    changes = [f"data.val={section}", f"data.train={section}"]
    model.config = override_config(model.config, changes, "the test")
    return model


def test_a_folder_is_sampled_evenly(data: Path) -> None:
    paths = sorted((data / "images").iterdir())
    images = images_to_check(detector(data), data / "images", count=3)
    assert images.names == [str(paths[position]) for position in (0, 2, 4)]
    assert (images.read(1) == read_image(paths[2])).all() and images.truth is None
    assert len(images_to_check(detector(data), paths[0], count=3)) == 1
    with pytest.raises(UserError, match="--check nowhere: no such file or folder"):
        images_to_check(detector(data), "nowhere", count=3)
    (data / "none").mkdir()
    with pytest.raises(UserError, match="none: no image is in it"):
        images_to_check(detector(data), data / "none", count=3)


@pytest.mark.parametrize("given", ["val", "images"])
def test_the_ground_truth_comes_with_its_images(data: Path, given: str) -> None:
    model = detector(data)
    if given == "val":
        images = images_to_check(model, "val", count=2)
    else:
        images = images_to_check(model, data / "images", data / "val.json", count=2)
    assert images.truth is not None and list(images.truth.image_ids) == [
        image["id"]
        for image in (json.loads((data / "val.json").read_text())["images"][i] for i in (0, 4))
    ]
    height, width = images.truth.sizes[1]
    assert images.read(1).shape == (height, width, 3)
    with pytest.raises(UserError, match=r"--annotations: data\.val of the run has its own"):
        images_to_check(model, "val", data / "val.json", count=2)


def test_names_that_yaml_would_read_otherwise(data: Path, tmp_path: Path) -> None:
    for name in ("[a], b: c # d", "2024"):
        folder = tmp_path / name
        shutil.copytree(data / "images", folder)
        images = images_to_check(detector(data), folder, data / "val.json", count=9)
        assert len(images) == 5 and images.truth is not None


def test_the_training_images_calibrate(data: Path) -> None:
    assert len(images_to_calibrate(detector(data), count=4)) == 4
    assert len(images_to_calibrate(detector(data), data / "images", count=4)) == 4
    with pytest.raises(UserError, match=r"int8 is calibrated on .* give --calibrate IMAGES"):
        images_to_calibrate(make_detector(), count=4)


def test_a_classifier(data: Path, shared_data: Path) -> None:
    model = configured(["ants", "bees"], root=str(shared_data / "hymenoptera_256"))
    images = images_to_check(model, "val", count=3)
    assert len(images) == 3 and images.read(2).ndim == 3 and "bees" in images.names[2]
    assert len(images_to_calibrate(model, count=2)) == 2
    with pytest.raises(UserError, match="a classifier is checked on images alone"):
        images_to_check(model, data / "images", data / "val.json", count=2)
