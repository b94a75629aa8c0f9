"""Crops and scales against plain loops: one picture, one window, one position at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from resdet.backbones import vgg
from resdet.errors import UserError
from resdet.files.findings import DataError
from resdet.inference import test_time
from resdet.inference.test_time import score_images
from resdet.models.classifier import Classifier
from resdet.models.predict import inference_mode
from resdet.models.views import PAPER_SCALES, Views, make_views
from tests.models.tiny_classifier import FileImages, make_classifier

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return make_classifier()


@pytest.fixture(scope="module")
def images(shared_data: Path) -> FileImages:
    """Wide, high and square ones."""
    folders = sorted((shared_data / "imagenet1k_sample_256" / "images").iterdir())
    paths = [next(folder.iterdir()) for folder in folders[::40]]
    shapes = {path: Image.open(path).size for path in paths}
    wide = [path for path in paths if shapes[path][0] > shapes[path][1]]
    high = [path for path in paths if shapes[path][0] < shapes[path][1]]
    square = [path for path in paths if shapes[path][0] == shapes[path][1]]
    assert wide and high
    return FileImages([*wide[:3], *high[:2], *square[:1]], [f"class {i}" for i in range(10)])


def scores(model: Classifier, images: FileImages, views: Views, batch_size: int = 4) -> Tensor:
    with inference_mode(model):
        found = dict(score_images(model, images, views, batch_size=batch_size, workers=2))
    rows = [found[index] for index in range(len(images))]
    assert all(isinstance(row, Tensor) and row.dtype == torch.float32 for row in rows)
    return torch.stack([row for row in rows if isinstance(row, Tensor)])


# the plain reference


def network_input(picture: Image.Image) -> Tensor:
    pixels = np.asarray(picture, dtype=np.float64)
    normal = (pixels - MEAN) / STD
    return torch.from_numpy(normal.transpose(2, 0, 1)[None].copy()).float()


def resized(path: Path, short: int) -> Image.Image:
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    if width < height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    return picture.resize(size, Image.Resampling.BILINEAR)


def mirrored(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def ten_crops(path: Path, short: int, side: int) -> list[Image.Image]:
    whole = resized(path, short)
    right, bottom = whole.width - side, whole.height - side
    found = []
    for picture in (whole, mirrored(whole)):
        for x, y in ((0, 0), (right, 0), (0, bottom), (right, bottom)):
            found.append(picture.crop((x, y, x + side, y + side)))
    x, y = round(right / 2), round(bottom / 2)
    centre = whole.crop((x, y, x + side, y + side))
    # the mirror image of the centre crop, which need not be the centre crop of the mirror image
    return [*found, centre, mirrored(centre)]


@torch.no_grad()
def slid(model: Classifier, picture: Image.Image, window: int) -> Tensor:
    """Softmax of the mean over all windows of the map, the head run on one at a time."""
    feature = model.backbone(network_input(picture))["c5"]
    high, wide = min(window, feature.shape[2]), min(window, feature.shape[3])
    logits = []
    for y in range(feature.shape[2] - high + 1):
        for x in range(feature.shape[3] - wide + 1):
            logits.append(model.head({"c5": feature[:, :, y : y + high, x : x + wide]})[0])
    return torch.stack(logits).double().mean(0).softmax(0)


def slow_dense(model: Classifier, path: Path, scales: tuple[int, ...], window: int) -> Tensor:
    found = []
    for scale in scales:
        for picture in (resized(path, scale), mirrored(resized(path, scale))):
            found.append(slid(model, picture, window))
    return torch.stack(found).mean(0)


@torch.no_grad()
def test_one_crop_is_the_centre(model: Classifier, images: FileImages) -> None:
    found = scores(model, images, make_views("1", test_resize=112, test_size=96))
    for row, path in zip(found, images.paths, strict=True):
        centre = ten_crops(path, 112, 96)[8]
        torch.testing.assert_close(row, model(network_input(centre))[0][0], rtol=1e-4, atol=1e-4)
    assert found.std(0).min() > 0.05, "the images differ"


@torch.no_grad()
def test_ten_crops_equal_a_loop(model: Classifier, images: FileImages) -> None:
    found = scores(model, images, make_views("10", test_resize=112, test_size=96), batch_size=20)
    for row, path in zip(found, images.paths, strict=True):
        each = [
            model(network_input(crop))[0][0].double().softmax(0)
            for crop in ten_crops(path, 112, 96)
        ]
        expected = torch.stack(each).mean(0)
        torch.testing.assert_close(row.double().exp(), expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(row.softmax(0).double(), expected, rtol=1e-4, atol=1e-6)


def test_dense_equals_a_sliding_window(model: Classifier, images: FileImages) -> None:
    # 64 gives a map smaller than the window, 133 and 100 are no multiples of a stride
    scales = (64, 96, 100, 133)
    views = make_views("dense", scales, test_resize=112, test_size=96)
    found = scores(model, images, views)
    for row, path in zip(found, images.paths, strict=True):
        expected = slow_dense(model, path, scales, window=3)
        torch.testing.assert_close(row.double().exp(), expected, rtol=1e-4, atol=1e-6)


def test_dense_with_fully_connected_layers(
    images: FileImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vgg, "HIDDEN", 48)
    model = make_classifier(vgg.VGGHead(10, dropout=0.5).eval())
    views = make_views("dense", (224, 270), test_resize=256, test_size=224)
    two = FileImages([images.paths[0], images.paths[3]], images.class_names)
    for row, path in zip(scores(model, two, views), two.paths, strict=True):
        expected = slow_dense(model, path, (224, 270), window=vgg.WINDOW)
        torch.testing.assert_close(row.double().exp(), expected, rtol=1e-4, atol=1e-6)


def test_batches_change_nothing(model: Classifier, images: FileImages) -> None:
    views = make_views("dense", (96, 120), test_resize=112, test_size=96)
    alone = scores(model, images, views, batch_size=1)
    torch.testing.assert_close(scores(model, images, views, batch_size=64), alone)


def test_only_pictures_of_one_size_share_a_batch(
    images: FileImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every picture of many sizes is seen once, unpadded."""
    seen: list[tuple[int, ...]] = []

    def note(model: Classifier, views: Tensor, *, dense: bool) -> Tensor:
        seen.append(tuple(views.shape))
        return views.float().mean((2, 3))

    monkeypatch.setattr(test_time, "view_logits", note)
    many = FileImages(images.paths * 10, images.class_names)
    views = make_views("dense", (96, 128), test_resize=112, test_size=96)
    model = make_classifier()
    found = dict(score_images(model, many, views, batch_size=8, workers=2))
    assert sorted(found) == list(range(len(many)))
    assert sum(shape[0] for shape in seen) == 2 * 2 * len(many)
    assert len({shape[2:] for shape in seen}) >= 4
    budget = 8 * 96 * 96
    assert all(b * h * w <= max(budget, 2 * h * w) for b, _, h, w in seen)
    assert max(shape[0] for shape in seen) > 2


def test_few_pictures_wait_where_all_sizes_differ() -> None:
    queues, waiting, most = test_time._Queues(budget=1000), 0, 0
    for index in range(300):
        views = torch.zeros(2, 3, 5, 5 + index, dtype=torch.uint8)
        queues.add(test_time._Stack(index, 0, views))
        waiting += 1
        while batch := queues.take(all_read=False):
            waiting -= len(batch)
        most = max(most, waiting)
    assert 0 < most < 8 * 1000 / (2 * 5 * 5) + 1
    rest = 0
    while batch := queues.take(all_read=True):
        rest += len(batch)
    assert rest == waiting


def test_a_broken_image_comes_as_its_error(
    model: Classifier, images: FileImages, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(images.paths[0].read_bytes()[:2000])
    mixed = FileImages([images.paths[0], broken, images.paths[1]], images.class_names)
    views = make_views("10", test_resize=112, test_size=96)
    with inference_mode(model):
        found = dict(score_images(model, mixed, views, batch_size=4, workers=2))
    assert isinstance(found[1], DataError) and str(broken) in str(found[1])
    assert isinstance(found[0], Tensor) and isinstance(found[2], Tensor)


def test_default_scales_follow_the_test_size() -> None:
    assert make_views("dense", test_resize=256, test_size=224).scales == PAPER_SCALES
    assert make_views("dense", test_resize=32, test_size=32).scales == (32, 37, 55, 69, 91)


def test_an_image_of_the_crops_size_is_its_own_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    (stack,) = make_views("1", test_resize=32, test_size=32)(pixels)
    assert torch.equal(stack, torch.from_numpy(pixels).permute(2, 0, 1)[None])


@pytest.mark.parametrize(
    ("crops", "scales", "sizes", "message"),
    [
        ("5", None, (256, 224), "one of 1, 10, dense"),
        ("10", None, (32, 32), "corners and centre are one place"),
        ("1", None, (200, 224), "no crop of 224 pixels fits"),
        ("10", [224], (256, 224), "--scales needs --crops dense"),
        ("dense", [224, 224], (256, 224), "different short sides above 0"),
        ("dense", [], (256, 224), "different short sides above 0"),
    ],
)
def test_what_cannot_be_cut(
    crops: str, scales: list[int] | None, sizes: tuple[int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_views(crops, scales, test_resize=sizes[0], test_size=sizes[1])
