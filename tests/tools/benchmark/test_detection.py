"""Every detector of the benchmark gets the same images, weights and objects, and finds the same."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.errors import UserError
from tools.benchmark import detectors, exports
from tools.benchmark.detection import benchmark_detector
from tools.benchmark.scenes import write_scene

SIZE = (128, 160)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("scene")
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(write_scene(folder, batch_size=2, size=SIZE, objects=3, images=folder, tiles=2))


def test_both_find_the_same(scene: str) -> None:
    ours, _ = detectors.make_resdet_inference(
        scene=scene, device="cpu", precision="fp32", compiled=False
    )
    theirs, _ = detectors.make_torchvision_inference(scene=scene, device="cpu", precision="fp32")
    for mine, other in zip(ours(), theirs(), strict=True):
        assert mine.shape == other.shape == (100, *SIZE)
        assert (mine != other).sum() < 20


@pytest.mark.slow
def test_exports_find_the_same(tmp_path: Path) -> None:
    scene = str(write_scene(tmp_path, batch_size=1, size=SIZE, depth=18, num_classes=5))
    contenders = exports.export_contenders(scene, tmp_path, exports.RUNTIMES)
    assert [each.name for each in contenders] == [
        "resdet, onnxruntime, fp32",
        "resdet, onnxruntime, int8",
        "resdet, openvino, fp32",
        "resdet, openvino, fp16",
        "resdet, openvino, int8",
        "torchvision, onnxruntime, fp32",
        "torchvision, openvino, fp32",
        "torchvision, openvino, bf16",
    ]
    eager, _ = detectors.make_resdet_inference(
        scene=scene, device="cpu", precision="fp32", compiled=False
    )
    wanted = eager()[0]
    for each in contenders:
        module, function = each.make.split(":")
        step, _ = getattr(importlib.import_module(module), function)(**each.arguments)
        found = torch.as_tensor(step()[0])
        assert found.shape[1:] == wanted.shape[1:]
        if each.name.endswith("fp32"):
            assert found.shape == wanted.shape and int((found != wanted).sum()) < 20, each.name


def test_both_have_the_same_losses_to_learn_from(scene: str) -> None:
    found = detectors.load_scene(scene)
    batch = detectors._batch(found)
    images, targets = batch.images, batch.targets
    assert images.images.shape == (2, 3, *SIZE) and targets.boxes.shape == (2, 3, 4)
    dense = detectors.dense_masks(found, 1)
    x1, y1, x2, y2 = found["boxes"][1, 0].tolist()
    # an ellipse fills π/4 of its box
    assert dense[0].sum() == pytest.approx((x2 - x1) * (y2 - y1) * np.pi / 4, rel=0.1)
    assert targets.masks is not None
    assert targets.masks.float().mean() == pytest.approx(np.pi / 4, rel=0.01)
    for make in (
        detectors.make_resdet_training(scene=scene, device="cpu", precision="fp32", compiled=False),
        detectors.make_torchvision_training(scene=scene, device="cpu", precision="fp32"),
    ):
        make[0]()


def test_unknown_names_and_empty_folders(tmp_path) -> None:
    with pytest.raises(UserError, match="choose from torchvision, detectron2"):
        benchmark_detector("infer", against=["mmdet"])
    with pytest.raises(UserError, match="give a folder of images"):
        benchmark_detector("infer", images=tmp_path, size=(64, 64))


@pytest.mark.slow
def test_the_table(tmp_path, capsys) -> None:
    rows = benchmark_detector(
        "train", size=SIZE, objects=2, rounds=1, steps=1, compiled=False, out=tmp_path
    )
    assert not any(row["error"] for row in rows)
    assert (tmp_path / "benchmark_train.png").is_file()
    assert torch.get_num_threads() > 0 and "images/s" in capsys.readouterr().out
