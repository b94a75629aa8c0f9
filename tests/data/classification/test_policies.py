"""Policies: torchvision's space and pixels, timm's strengths, and no randomness but the given."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, TrivialAugmentWide
from torchvision.transforms.autoaugment import _apply_op

from resdet.data.classification import policies
from resdet.data.classification.policies import (
    FACTORS,
    IMAGENET_GRAY,
    RAND_OPS,
    TRIVIAL_SPACE,
    RandAugment,
    TrivialAugment,
    apply_op,
    rand_value,
)


@pytest.fixture(scope="module")
def photo(shared_data: Path) -> Image.Image:
    path = next((shared_data / "hymenoptera_256" / "train" / "bees").glob("*.jpg"))
    return Image.open(path).convert("RGB").resize((120, 96))


def test_the_trivial_space_is_torchvisions() -> None:
    reference = TrivialAugmentWide()._augmentation_space(31)
    assert list(reference) == list(TRIVIAL_SPACE)
    for name, (magnitudes, signed) in reference.items():
        values, own_signed = TRIVIAL_SPACE[name]
        expected = np.atleast_1d(magnitudes.double().numpy())
        assert signed == own_signed
        if name.startswith("Translate"):
            # whole pixels, as its _apply_op makes them; 16 it has as 15.999999
            expected = (expected + 1e-5).astype(int)
        np.testing.assert_allclose(values, expected, rtol=1e-6)


@pytest.mark.parametrize("name", TRIVIAL_SPACE)
def test_trivial_operations_are_torchvisions(photo: Image.Image, name: str) -> None:
    values, signed = TRIVIAL_SPACE[name]
    for value in values[:: max(1, len(values) // 5)].tolist():
        for magnitude in {value, -value} if signed else {value}:
            expected = _apply_op(photo, name, magnitude, InterpolationMode.BILINEAR, fill=None)
            own = apply_op(photo, name, 1 + magnitude if name in FACTORS else magnitude)
            difference = np.abs(np.asarray(own, int) - np.asarray(expected, int))
            if name.startswith("Shear"):
                # They go through an arc tangent and back, so that an edge may fall just outside.
                assert (difference > 1).mean() < 0.005, magnitude
            else:
                assert difference.max() == 0, magnitude


def test_trivial_draws_each_operation_and_strength_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []

    def record(image: Image.Image, name: str, value: float) -> Image.Image:
        drawn.append((name, value))
        return image

    monkeypatch.setattr(policies, "apply_op", record)
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (4, 4))
    for _ in range(14_000):
        TrivialAugment()(image, rng)
    counts = Counter(name for name, _ in drawn)
    assert set(counts) == set(TRIVIAL_SPACE)
    assert all(850 < count < 1150 for count in counts.values())
    turns = Counter(value for name, value in drawn if name == "Rotate")
    assert len(turns) == 61 and max(turns) == 135 and min(turns) == -135
    assert {value for name, value in drawn if name == "Posterize"} == {2, 3, 4, 5, 6, 7, 8}
    factors = [value for name, value in drawn if name == "Contrast"]
    assert min(factors) == pytest.approx(0.01) and max(factors) == pytest.approx(1.99)


# timm's level functions of the "increasing" set at strengths 0, 5 and 10, for a positive sign and
# a picture of 200×100 (width×height)
TIMM = {
    "Rotate": (0, 15, 30),
    "ShearX": (0, 0.15, 0.3),
    "ShearY": (0, 0.15, 0.3),
    "TranslateX": (0, 45, 90),
    "TranslateY": (0, 22.5, 45),
    "Posterize": (4, 2, 0),
    "Solarize": (256, 128, 0),
    "SolarizeAdd": (0, 55, 110),
    "Color": (1, 1.45, 1.9),
    "Contrast": (1, 1.45, 1.9),
    "Brightness": (1, 1.45, 1.9),
    "Sharpness": (1, 1.45, 1.9),
}


@pytest.mark.parametrize("name", TIMM)
def test_rand_strengths_are_timms(name: str) -> None:
    own = [rand_value(name, strength, 1, (200, 100)) for strength in (0, 5, 10)]
    assert own == pytest.approx(TIMM[name])
    signed = name not in ("Posterize", "Solarize", "SolarizeAdd")
    middle = 1 if name in FACTORS else 0
    negative = rand_value(name, 10, -1, (200, 100))
    assert negative == pytest.approx(2 * middle - own[2] if signed else own[2])


def test_rand_augment_draws_as_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, float]] = []

    def record(image: Image.Image, name: str, value: float, **look: object) -> Image.Image:
        assert look["fill"] == IMAGENET_GRAY
        drawn.append((name, value))
        return image

    monkeypatch.setattr(policies, "apply_op", record)
    rng = np.random.default_rng(0)
    policy = RandAugment(num_ops=2, magnitude=7, std=0.5)
    for _ in range(6000):
        policy(Image.new("RGB", (100, 100)), rng)
    # two operations, each carried out with a chance of one half
    assert 5700 < len(drawn) < 6300
    counts = Counter(name for name, _ in drawn)
    assert set(counts) == set(RAND_OPS) and len(RAND_OPS) == 15
    assert all(300 < count < 500 for count in counts.values())
    strengths = np.array([abs(value) / 3 for name, value in drawn if name == "Rotate"])
    assert strengths.mean() == pytest.approx(7, abs=0.1)
    assert strengths.std() == pytest.approx(0.5, abs=0.1)
    signs = np.array([value > 0 for name, value in drawn if name == "Rotate"])
    assert 0.4 < signs.mean() < 0.6


def test_the_other_operations(photo: Image.Image) -> None:
    pixels = np.asarray(photo).astype(int)
    added = np.asarray(apply_op(photo, "SolarizeAdd", 60))
    assert np.array_equal(added, np.where(pixels < 128, np.minimum(255, pixels + 60), pixels))
    assert np.array_equal(np.asarray(apply_op(photo, "Invert", 0)), 255 - pixels)
    moved = np.asarray(apply_op(photo, "TranslateX", 10, fill=(1, 2, 3)))
    assert np.array_equal(moved[:, 10:], pixels[:, :-10])
    assert (moved[:, :9] == (1, 2, 3)).all()


@pytest.mark.parametrize("policy", [TrivialAugment(), RandAugment(), RandAugment(4, 10, 0)])
def test_the_generator_is_the_only_randomness(photo: Image.Image, policy: TrivialAugment) -> None:
    np.random.seed(0)
    first = [np.asarray(policy(photo, np.random.default_rng(seed))) for seed in range(20)]
    np.random.seed(1)
    second = [np.asarray(policy(photo, np.random.default_rng(seed))) for seed in range(20)]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(image.shape == (96, 120, 3) for image in first)
    assert len({image.tobytes() for image in first}) > 8
