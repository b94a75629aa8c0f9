"""Classes with a direction, and the keys that flip it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

import resdet
from resdet.config.loading import load_config
from resdet.inference.flips import ENDS, SIDES, directed, warn_of_flips
from tests.models.tiny_detector import make_detector, write_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize("name", ["turn_left", "Right Hand", "arrowLeft", "LEFT-eye", "left"])
def test_names_with_a_side(name: str) -> None:
    assert directed(["car", name], SIDES) == [name]


def test_names_without_one() -> None:
    names = ["bright", "copyright sign", "cleft lip", "leftover", "upright piano", "car"]
    assert directed(names, SIDES) == []
    assert directed(["cup", "pickup", "downtown", "stop"], ENDS) == []
    # a pair is proof
    assert directed(["turnleft", "turnright", "bright"], SIDES) == ["turnleft", "turnright"]


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ([], ["data.augment.flip_prob: 0.5"]),
        (["data.augment.flip_prob=0"], []),
        (["data.augment.flip_prob=0", "test.flip=true"], ["test.flip"]),
        (
            ["data.augment.flip_prob=0", "data.augment.albumentations=[{name: HorizontalFlip}]"],
            ["data.augment.albumentations: HorizontalFlip"],
        ),
    ],
)
def test_keys_that_mirror(
    overrides: list[str], keys: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(CONFIGS / "own_data.yaml", overrides)
    warn_of_flips(config, ["arrow left", "arrow right", "arrow up"])
    assert len(caplog.records) == len(keys)
    for key in keys:
        assert key in caplog.text
        assert "'arrow left', 'arrow right' depend on the direction" in caplog.text


def test_vertical_flips(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "resdet"):
        warn_of_flips(load_config(CONFIGS / "bccd.yaml"), ["arrow up", "arrow down", "car"])
    assert "data.augment.vertical_flip_prob: 0.5 flips images" in caplog.text
    caplog.clear()
    warn_of_flips(load_config(CONFIGS / "own_data.yaml"), ["arrow up", "arrow down", "car"])
    assert not caplog.records


def test_the_base_for_own_data_is_neutral() -> None:
    config = load_config(CONFIGS / "own_data.yaml")
    assert config.data.augment.vertical_flip_prob == 0
    assert config.model.backbone.weights == "torchvision:resnet50.IMAGENET1K_V1"
    assert config.model.fpn is not None and config.model.roi.mask_head is None


@pytest.mark.parametrize(
    ("names", "flip", "expected"),
    [
        (["left hand", "right hand"], True, "test.flip: true flips images"),
        (["left hand", "right hand"], False, ""),
        (["hand", "bright"], True, ""),
    ],
)
def test_mirror_images_at_test_time(
    names: list[str], flip: bool, expected: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_checkpoint(tmp_path / "last.pt", make_detector(), class_names=names)
    resdet.load(path, test={"flip": flip}, device="cpu")
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warnings) == bool(expected)
    assert all(expected in warning for warning in warnings)
