"""Every classifier's config takes a step and validates, at the smallest images it can have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import resdet
from tests.engine.cls_data import write_cifar10, write_folders

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
DEEP = ("101", "152", "110", "1202", "vgg")
# each recipe takes its step with ResNet-18
RECIPES = ("_a1", "_a2", "_a3", "_tv1", "_tv2")


COMMON = ["train.max_steps=1", "train.accumulate=1", "train.precision=fp32", "train.threads=1"]
COMMON += ["log.tensorboard=false", "log.every=1", "eval.batch_size=8"]
FOLDERS = ["train.batch_size=4", "data.size=64", "data.test_size=64", "data.test_resize=64"]
FOLDERS += ["data.progressive=[]", "data.augment.short_edges=[64, 80]", "data.workers=0"]


def takes_long(name: str) -> bool:
    return any(part in name for part in DEEP) or (
        name.startswith(("imagenet_resnet34", "imagenet_resnet50")) and name.endswith(RECIPES)
    )


def classifiers(prefix: str) -> list:
    """The configs of a family; those that take long are slow."""
    return [
        pytest.param(
            path,
            id=path.stem,
            marks=pytest.mark.slow if takes_long(path.stem) else (),
        )
        for path in CONFIGS
        if path.stem.startswith(prefix)
        and not path.stem.startswith(("imagenet_loc_", "imagenet_det_"))
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("folders") / "data", count=2)


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    return write_cifar10(tmp_path_factory.mktemp("cifar") / "data", per_batch=4)


def takes_a_step(path: Path, overrides: list[str], folder: Path) -> None:
    run = resdet.train(path, [*COMMON, *overrides], run_dir=folder / "run", device="cpu")
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1
    assert first["loss"] > 0
    assert (run / "eval.json").is_file()


@pytest.mark.parametrize("path", classifiers("imagenet_"))
def test_imagenet(path, folders, tmp_path):
    overrides = [*FOLDERS, f"data.root={folders}", "train.precise_bn_images=4"]
    takes_a_step(path, overrides, tmp_path)


@pytest.mark.parametrize("path", classifiers("cifar10_"))
def test_cifar10(path, cifar, tmp_path):
    takes_a_step(path, ["train.batch_size=4", f"data.root={cifar}"], tmp_path)
