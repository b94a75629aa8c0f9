"""Runs on tiles: training, resuming, validation on whole images, evaluation and prediction."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import resdet
from resdet.config.loading import load_config
from resdet.engine.eval_images import TiledImages
from resdet.engine.evaluate_detection import evaluate_run
from resdet.files import checkpoint
from tests.engine.conftest import Tiny, assert_same_end, log_of
from tests.engine.kill_server import KillServer
from tests.engine.test_augment import interrupted
from tests.engine.test_distributed import two_processes
from tests.golden import tiny_backbone  # noqa: F401  registers the backbone
from tests.inference.test_tiled_models import to_xywh

TILES = [
    *("data.tile.size=128", "data.tile.overlap=0.25", "data.tile.empty=0.5"),
    *("model.backbone.name=golden_tiny", "train.max_steps=7", "eval.every=0"),
    "model.score_thresh=0.02",
]


@pytest.fixture(scope="module")
def run(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles") / "run"
    return resdet.train(tiny.config, TILES, run_dir=folder, device="cpu")


def test_processes_share_whole_images() -> None:
    tiles: Any = SimpleNamespace(parents=np.array([0, 0, 1, 2, 2, 2]), untiled=range(3))
    images = TiledImages(tiles)
    assert [images.share(rank, 2) for rank in range(2)] == [[0, 1, 3, 4, 5], [2]]
    assert [images.share(rank, 4) for rank in range(4)] == [[0, 1], [2], [3, 4, 5], []]
    assert [images.position(tile) for tile in range(6)] == [0, 0, 1, 2, 2, 2]


@pytest.mark.slow  # a run of two processes
def test_two_processes_validate_what_one_does(
    server: KillServer, tiny: Tiny, tmp_path: Path
) -> None:
    changes = ["model.backbone.name=resnet18", "train.max_steps=1", "eval.batch_size=2"]
    two_processes(server, tiny.config, tmp_path / "two", [*TILES, *changes])
    last = log_of(tmp_path / "two")[-1]
    _, one = evaluate_run(tmp_path / "two", device="cpu", precision="fp32")
    for kind, numbers in one.result.summary.items():
        assert last["eval"][kind] == pytest.approx(numbers, abs=1e-6)
    assert last["val_loss"] == pytest.approx(sum(one.losses.values()), rel=1e-5)


@pytest.mark.slow  # evaluates twice
def test_an_ensemble_is_evaluated_in_tiles(run: Path, tiny: Tiny) -> None:
    """It predicts what the command counts."""
    _, validation = evaluate_run([run, run], ["data.workers=0"], device="cpu", precision="fp32")
    model = resdet.load([run, run], device="cpu", precision="fp32")
    found = validation.result.detections
    folder = load_config(tiny.config).data.val.images
    entries = json.loads((tiny.config.parent / "val.json").read_text())["images"]
    for place, entry in enumerate(entries):
        own = model.predict(Path(folder) / entry["file_name"])
        mine = found.boxes[found.images == place]
        assert len(mine) == len(own) > 0
        np.testing.assert_allclose(np.sort(mine, 0), np.sort(to_xywh(own), 0), atol=1e-2)


@pytest.mark.slow  # two more runs
def test_a_run_on_tiles_and_its_resume(run: Path, tiny: Tiny, tmp_path: Path, monkeypatch) -> None:
    assert_same_end(run, interrupted(tiny.config, TILES, tmp_path / "again", monkeypatch, step=3))


def test_validation_counts_on_whole_images(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = log_of(run)[-1]
    assert last["eval"]["bbox"].keys() >= {"AP", "AR100", "AR10000"}, "limits for many objects"
    assert last["val_loss"] > 0
    with caplog.at_level(logging.INFO, "resdet"):
        config, validation = evaluate_run(run, ["data.workers=0"], device="cpu", precision="fp32")
    assert validation.result.summary == last["eval"]
    assert "3 images in 27 tiles of 128 pixels" in caplog.text
    assert "evaluating on 3 images" in caplog.text
    found = validation.result.detections
    assert set(found.images.tolist()) <= {0, 1, 2}
    assert {tuple(rle["size"]) for rle in found.rles} == {(256, 256)}
    assert config.data.tile.size == 128


def test_the_commands_take_the_tiles_of_the_run(run: Path, tiny: Tiny) -> None:
    model = resdet.load(run, device="cpu", precision="fp32")
    # of a tile of 128 pixels the network saw 64
    assert model.tile_scale == model.seen.scale == 0.5
    assert checkpoint.load(run / "last.pt")["seen"][0] == 0.5
    entry = json.loads((tiny.config.parent / "val.json").read_text())["images"][0]
    image = np.asarray(
        Image.open(load_config(tiny.config).data.val.images + "/" + entry["file_name"]).convert(
            "RGB"
        )
    )
    own = model.predict(image)
    same = model.predict(image, tile=128, overlap=0.25, batch_size=4)
    assert own.rles is not None and torch.allclose(own.boxes, same.boxes, atol=1e-3)
    assert model.predict(image, tile=0).rles is None
    other = model.predict(image, tile=96)
    assert other.rles is not None and len(other) != len(own)


@pytest.mark.slow  # another run, and four evaluations
def test_tiles_at_test_time_alone(tiny: Tiny, tmp_path: Path) -> None:
    overrides = ["model.backbone.name=golden_tiny", "train.max_steps=4", "model.score_thresh=0.02"]
    run = resdet.train(tiny.config, overrides, run_dir=tmp_path / "whole", device="cpu")
    model = resdet.load(run, device="cpu")
    assert model.tile_scale == 0.25, "images of 256 pixels were seen at 64"
    entry = json.loads((tiny.config.parent / "val.json").read_text())["images"][0]
    path = Path(load_config(tiny.config).data.val.images) / entry["file_name"]
    whole, tiled = (
        model.predict(path, precision="fp32"),
        model.predict(path, tile=256, precision="fp32"),
    )
    assert torch.equal(whole.boxes, tiled.boxes), "an image in one tile is seen as it is"
    assert whole.to_coco(1) == tiled.to_coco(1)
    keys = ["data.workers=0", "eval.val_loss=false"]
    _, plain = evaluate_run(run, keys, device="cpu", precision="fp32")
    _, one_tile = evaluate_run(run, [*keys, "data.tile.size=256"], device="cpu", precision="fp32")
    assert plain.result.summary == one_tile.result.summary
    for switch in ("data.test_resize.short_edge=128", "test.flip=true"):
        _, other = evaluate_run(
            run, [*keys, "data.tile.size=160", switch], device="cpu", precision="fp32"
        )
        assert other.result.summary.keys() == plain.result.summary.keys()
    twice = resdet.load(run, device="cpu", test={"scales": [64, 128]})
    assert len(twice.prepare(np.zeros((40, 40, 3), np.uint8), is_tile=True)) == 2


def test_an_image_with_a_broken_tile_is_left_out(tiny: Tiny, run: Path, tmp_path: Path) -> None:
    source = load_config(tiny.config)
    truth = json.loads((tiny.config.parent / "val.json").read_text())
    images = tmp_path / "images"
    images.mkdir()
    for place, image in enumerate(truth["images"]):
        pixels = Image.open(Path(source.data.val.images) / image["file_name"]).convert("RGB")
        image["file_name"] = f"{place}.tif"
        pixels.save(images / f"{place}.tif", compression="tiff_lzw", strip_size=20_000)
    cut = images / "1.tif"
    data = bytearray(cut.read_bytes())
    data[len(data) // 2 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 2)
    cut.write_bytes(data)
    (tmp_path / "val.json").write_text(json.dumps(truth))
    keys = [f"data.val.images={images}", f"data.val.annotations={tmp_path / 'val.json'}"]
    keys += ["data.workers=0", "data.max_broken=0.5", "eval.batch_size=4"]
    _, validation = evaluate_run(run, keys, device="cpu", precision="fp32")
    assert list(validation.broken) == [1] and "1.tif" in validation.broken[1]
