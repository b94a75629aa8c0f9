"""Crops against torchvision, sides by epoch, and samples that depend on their key alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resdet.data.classification.policies import RandAugment, TrivialAugment
from resdet.data.classification.transforms import (
    CenterCrop,
    ClassificationTestTransform,
    ClassificationTrainTransform,
    ColorJitter,
    Crop,
    RandomResizedCrop,
    ScaleJitter,
    progressive_side,
    resize_antialiased,
    resized_crop,
)
from resdet.files.findings import DataError
from resdet.files.images import EncodedImage
from tests.data.make_cls import picture


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[Path]:
    return sorted((shared_data / "hymenoptera_256" / "val").rglob("*.jpg"))[::30]


def encoded(path: Path) -> EncodedImage:
    return EncodedImage(path.read_bytes(), str(path))


def made(height: int, width: int, format: str = "PNG", seed: int = 0) -> EncodedImage:
    file = io.BytesIO()
    picture(seed, height, width).save(file, format)
    return EncodedImage(file.getvalue(), "made")


def draw(
    transform: ClassificationTrainTransform, image: EncodedImage, epoch: int = 0, *key: int
) -> Any:
    return transform(image, epoch=epoch, seed=np.random.SeedSequence(key or (0, epoch, 0)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize", "size"), [(256, 224), (232, 224), (146, 128), (64, 64)])
def test_the_test_transform_is_torchvisions(
    photos: list[Path], resize: int, size: int, interpolation: str
) -> None:
    filter_ = v2.InterpolationMode(interpolation)
    reference = v2.Compose([v2.Resize(resize, filter_), v2.CenterCrop(size), v2.PILToTensor()])
    transform = ClassificationTestTransform(resize, size, interpolation)
    for path in photos:
        own = transform(encoded(path), epoch=0, seed=np.random.SeedSequence(0))
        assert own.dtype == torch.uint8 and own.permute(1, 2, 0).is_contiguous()
        assert torch.equal(own, reference(Image.open(path).convert("RGB")))
    assert transform.side(7) == size


def test_a_whole_image_can_be_kept(photos: list[Path]) -> None:
    transform = ClassificationTestTransform(96, None)
    own = transform(encoded(photos[0]), epoch=0, seed=np.random.SeedSequence(0))
    reference = v2.PILToTensor()(v2.Resize(96)(Image.open(photos[0]).convert("RGB")))
    assert torch.equal(own, reference)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.test_resize 200 is less than data\.test_size 224"):
        ClassificationTestTransform(200, 224)
    with pytest.raises(DataError, match=r"short_edges starts at 200 pixels, less than the 224"):
        ScaleJitter((200, 300), 224)


def test_boxes_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    crop = RandomResizedCrop((0.08, 1.0), (3 / 4, 4 / 3))
    image = torch.zeros(1, 300, 400)
    reference = v2.RandomResizedCrop(10, crop.scale, crop.ratio)
    theirs = []
    for _ in range(3000):
        found = reference.make_params([image])
        theirs.append([found["top"], found["left"], found["height"], found["width"]])
    own = np.array([crop.box((300, 400), rng) for _ in range(3000)])
    assert (own >= 0).all() and (own[:, 2:] >= 1).all()
    assert (own[:, 0] + own[:, 2] <= 300).all() and (own[:, 1] + own[:, 3] <= 400).all()
    for quantile in (0.05, 0.25, 0.5, 0.75, 0.95):
        a, b = (np.quantile(boxes, quantile, axis=0) for boxes in (own, np.array(theirs)))
        np.testing.assert_allclose(a, b, atol=16)
    areas = own[:, 2] * own[:, 3] / 120_000
    ratios = own[:, 3] / own[:, 2]
    assert areas.min() > 0.078 and areas.max() <= 1
    assert ratios.min() > 0.73 and ratios.max() < 1.37


@pytest.mark.parametrize("size", [(20, 400), (400, 20), (7, 1), (1, 1), (30, 900)])
def test_a_long_image_gives_its_middle_as_in_torchvision(size: tuple[int, int]) -> None:
    # An area above the image's: no box fits, as after ten tries.
    found = v2.RandomResizedCrop(8, (2, 3)).make_params([torch.zeros(1, *size)])
    expected = (found["top"], found["left"], found["height"], found["width"])
    own = RandomResizedCrop((2.0, 3.0)).box(size, np.random.default_rng(0))
    assert own == expected or (min(size) == 1 and min(expected[2:]) >= 1)
    image = draw(ClassificationTrainTransform(32, crop=RandomResizedCrop()), made(*size))
    assert image.shape == (3, 32, 32)


@pytest.mark.parametrize(("interpolation", "levels"), [("bilinear", 1), ("bicubic", 0)])
def test_pixels_are_torchvisions_but_for_rounding(
    photos: list[Path], interpolation: str, levels: int
) -> None:
    filter_ = v2.InterpolationMode(interpolation)
    rng = np.random.default_rng(0)
    for path in photos:
        image = encoded(path)
        box = RandomResizedCrop().box(image.size, rng)
        picture = Image.open(path).convert("RGB")
        expected = F.resized_crop(picture, *box, [224, 224], filter_, antialias=True)
        own = resized_crop(image, box, (224, 224), interpolation)
        difference = np.abs(own.astype(int) - np.asarray(expected))
        assert difference.max() <= levels
        assert difference.mean() < 0.2


class Recorder(EncodedImage):
    """Remembers at which part of its size it was decoded."""

    def __init__(self, image: EncodedImage) -> None:
        super().__init__(image.data, image.name)
        self.reductions: list[int] = []

    def fast_pixels(self, reduce: int = 1) -> NDArray[np.uint8]:
        self.reductions.append(reduce)
        return super().fast_pixels(reduce)


def test_a_large_photo_is_decoded_small() -> None:
    for height, width, reduce in ((299, 400, 1), (301, 449, 2), (901, 600, 4), (1300, 1300, 8)):
        image = made(height, width, "JPEG")
        asked = Recorder(image)
        own = resized_crop(asked, (0, 0, height, width), (150, 150))
        assert asked.reductions == [reduce]
        whole = resize_antialiased(image.pixels(), (150, 150))
        assert np.abs(own.astype(int) - whole).mean() < 1.5
    # the box is found in the smaller picture
    image = made(1200, 900, "JPEG", seed=3)
    own = resized_crop(image, (201, 103, 640, 704), (80, 80))
    exact = resize_antialiased(image.pixels()[201:841, 103:807], (80, 80))
    assert np.abs(own.astype(int) - exact).mean() < 2.5


def test_scale_jitter_cuts_from_every_size(photos: list[Path]) -> None:
    image = encoded(photos[0])
    height, width = image.size
    rng = np.random.default_rng(0)
    cuts = [ScaleJitter((256, 480))(image, 224, rng) for _ in range(4)]
    assert all(cut.shape == (224, 224, 3) for cut in cuts)
    # One short side: the square is a window of the whole image at that size.
    cut = ScaleJitter((256, 256), 224)(image, 224, np.random.default_rng(1))
    long = int(256 * max(height, width) / min(height, width))
    size = (256, long) if height <= width else (long, 256)
    whole = resized_crop(image, (0, 0, height, width), size)
    first_rows = np.lib.stride_tricks.sliding_window_view(whole, 224, axis=1)[:, :, 0]
    places = np.argwhere((first_rows == cut[0, :, 0]).all(2))
    assert any(np.array_equal(whole[y : y + 224, x : x + 224], cut) for y, x in places)
    # Another side keeps the proportion of what is seen.
    assert ScaleJitter((256, 256), 224)(image, 112, rng).shape == (112, 112, 3)


def test_the_middle_without_flips_is_the_test_image(photos: list[Path]) -> None:
    image = encoded(photos[1])
    plain = ClassificationTrainTransform(224, crop=CenterCrop(256, 224), flip_prob=0.0)
    expected = ClassificationTestTransform(256, 224)(image, epoch=0, seed=np.random.SeedSequence(0))
    assert torch.equal(draw(plain, image), expected)
    flipped = ClassificationTrainTransform(224, crop=CenterCrop(256, 224), flip_prob=1.0)
    assert torch.equal(draw(flipped, image), expected.flip(-1))
    half = ClassificationTrainTransform(224, crop=CenterCrop(256, 224), flip_prob=0.5)
    count = sum(torch.equal(draw(half, image, 0, seed), expected) for seed in range(100))
    assert 30 < count < 70


def test_colour_jitter_stays_in_its_range() -> None:
    gray = Image.new("RGB", (8, 8), (100, 100, 100))
    rng = np.random.default_rng(0)
    levels = [np.asarray(ColorJitter(0.4)(gray, rng))[0, 0, 0] for _ in range(300)]
    # Contrast and saturation leave an even gray as it is.
    assert 60 <= min(levels) < 65 and 135 < max(levels) <= 140


CROPS: list[Crop] = [RandomResizedCrop(), ScaleJitter((72, 96), 64), CenterCrop(72, 64)]


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("policy", [None, TrivialAugment(), RandAugment()])
def test_the_seed_decides(crop: Crop, policy: Any) -> None:
    transform = ClassificationTrainTransform(64, crop=crop, policy=policy, color_jitter=0.2)
    image = made(120, 90)
    first = [draw(transform, image, 0, 0, seed) for seed in range(6)]
    np.random.seed(5)
    torch.manual_seed(5)
    second = [draw(transform, image, 0, 0, seed) for seed in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(each.shape == (3, 64, 64) and each.dtype == torch.uint8 for each in first)
    assert len({each.numpy().tobytes() for each in first}) > 4


def test_the_side_grows_in_steps_of_32() -> None:
    points = [(2, 128), (10, 224)]
    sides = [progressive_side(points, epoch, 224) for epoch in range(12)]
    assert sides == [128, 128, 128, 128, 160, 160, 192, 192, 192, 224, 224, 224]
    assert progressive_side([], 5, 176) == 176
    assert progressive_side([(0, 200)], 3, 224) == 192  # 6.25 steps


def test_one_side_an_epoch_with_repeats_too() -> None:
    points = [[0, 64], [2, 128]]
    once = ClassificationTrainTransform(128, crop=RandomResizedCrop(), progressive=points)
    assert [once.side(epoch) for epoch in range(4)] == [64, 96, 128, 128]
    repeated = ClassificationTrainTransform(
        128, crop=RandomResizedCrop(), progressive=points, repeats=3
    )
    assert [repeated.side(epoch) for epoch in range(9)] == [64] * 3 + [96] * 3 + [128] * 3
    assert draw(repeated, made(90, 90), 5).shape == (3, 96, 96)
