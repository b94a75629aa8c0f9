"""predict(): every kind of image gives the same detections, and bad ones a clear word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.models.rcnn import RCNN
from resdet.structures import Detections


@pytest.fixture
def path(nuclei: Path) -> Path:
    return sorted((nuclei / "images").iterdir())[0]


def assert_same(a: Detections, b: Detections) -> None:
    assert len(a) == len(b) > 0
    torch.testing.assert_close(a.boxes, b.boxes)
    torch.testing.assert_close(a.scores, b.scores)
    assert torch.equal(a.labels, b.labels)


def test_path_pillow_and_array_are_the_same(model: RCNN, path: Path) -> None:
    found = model.predict(path)
    assert isinstance(found, Detections)
    assert found.image_size == (256, 256)
    assert found.class_names == ["cell", "dirt"]
    assert found.masks is not None and found.masks.shape == (len(found), 256, 256)
    for image in (str(path), Image.open(path), read_image(path)):
        again = model.predict(image)
        assert isinstance(again, Detections)
        assert_same(found, again)


def test_a_list_gives_a_list_in_any_batch_size(model: RCNN, nuclei: Path) -> None:
    paths = sorted((nuclei / "images").iterdir())[:3]
    images = [*paths, read_image(paths[0])[:100, :180]]
    one, three = model.predict(images), model.predict(images, batch_size=3)
    assert isinstance(one, list) and isinstance(three, list)
    assert [each.image_size for each in one] == [(256, 256)] * 3 + [(100, 180)]
    for a, b in zip(one, three, strict=True):
        assert len(a) == len(b)
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-4)
    assert model.predict([]) == []


def test_boxes_are_in_pixels_of_the_original(model: RCNN, path: Path) -> None:
    wide = read_image(path)[:64, :200]
    found = model.predict(wide)
    assert isinstance(found, Detections)
    assert found.boxes[:, 2].max() <= 200 and found.boxes[:, 3].max() <= 64
    # 64 × 200 is resized to 51 × 160: boxes beyond those sizes show that they were scaled back
    assert found.boxes[:, 2].max() > 160


def test_score_thresh_holds_for_the_call_only(model: RCNN, path: Path) -> None:
    everything = model.predict(path)
    assert isinstance(everything, Detections)
    middle = float(everything.scores.median())
    some = model.predict(path, score_thresh=middle)
    assert isinstance(some, Detections)
    assert 0 < len(some) < len(everything) and some.scores.min() > middle
    assert model.roi_heads.score_thresh == 0
    with pytest.raises(UserError, match=r"score_thresh is 50"):
        model.predict(path, score_thresh=50)


def test_training_mode_is_restored(model: RCNN, path: Path) -> None:
    model.train()
    model.fpn.eval()
    try:
        before = {key: value.clone() for key, value in model.state_dict().items()}
        model.predict(path)
        assert model.training and model.backbone.training and not model.fpn.training
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    finally:
        model.eval()


def test_a_model_can_be_trained_after_predicting(model: RCNN, path: Path) -> None:
    found = model.predict(path)
    assert isinstance(found, Detections)
    assert not found.boxes.is_inference() and not found.boxes.requires_grad


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), expected \(height, width, 3\)"),
        (np.zeros((3, 40, 40), np.uint8), "move channels last"),
        (np.zeros((4, 4, 4), np.uint8), "drop alpha"),
        (np.zeros((4, 4, 3), np.float32), "float32, expected uint8"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 4, 4), r"not a torch\.Tensor"),
        (None, r"not a builtins\.NoneType"),
        ("absent.jpg", r"absent\.jpg"),
    ],
)
def test_bad_images_are_explained(model: RCNN, image: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        model.predict(image)


def test_the_bad_image_of_a_list_is_numbered(model: RCNN, path: Path) -> None:
    with pytest.raises(UserError, match="image 1 of the list: the image array is int64"):
        model.predict([path, np.zeros((5, 5, 3), np.int64)])
    with pytest.raises(UserError, match="batch_size is 0"):
        model.predict([path], batch_size=0)


def test_pillow_images_are_turned_and_converted(model: RCNN) -> None:
    from resdet.files.images import to_rgb

    image = Image.new("RGB", (40, 20), "red")
    image.getexif()[0x0112] = 6  # a quarter turn
    assert to_rgb(image).shape == (40, 20, 3)
    deep = Image.fromarray(np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8))
    assert to_rgb(deep).max() == 255
    clear = Image.new("RGBA", (2, 2), (1, 2, 3, 0))
    assert to_rgb(clear)[0, 0].tolist() == [1, 2, 3]


def test_the_limit_of_pixels_is_the_configs_or_that_of_the_call(
    model: RCNN, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (200, 100)).save(path)
    for image in (path, Image.open(path)):
        with pytest.raises(UserError, match=r"200×100 pixels.* max_pixels"):
            model.predict(image, max_pixels=19_999)
        assert model.predict(image, max_pixels=20_000).image_size == (100, 200)
