"""Every kind of detector predicts in tiles what it predicts without, and evaluates it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.commands.export import Form, export_command
from resdet.engine.evaluate_detection import evaluate_run
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.inference.exported import AnyDetector, ExportedDetector, load_exported
from resdet.inference.loading import load_models
from resdet.models.rcnn import RCNN
from resdet.models.tiles import TileMerger
from resdet.ops.tiles import Tiling
from resdet.structures import Detections
from tests.inference.handmade import write_detector
from tests.inference.test_combined import combined, detector
from tests.models import tiny_detector
from tests.models.tiny_detector import write_checkpoint

SIDE = 96
"""The test size of the detectors: a tile of this side is seen as an image of it is."""


@pytest.fixture(scope="module")
def pixels(nuclei: Path) -> np.ndarray:
    return read_image(sorted((nuclei / "images").iterdir())[0])[:120, :150]


@pytest.fixture(scope="module")
def networks() -> list[RCNN]:
    return [detector(seed=seed, short_edge=SIDE) for seed in range(2)]


def single(networks: list[RCNN], folder: Path) -> AnyDetector:
    return networks[0]


def ensemble(networks: list[RCNN], folder: Path) -> AnyDetector:
    return combined(networks)


def views(networks: list[RCNN], folder: Path) -> AnyDetector:
    return combined(networks[:1], flip=True, scales=[64, SIDE])


def exported(networks: list[RCNN], folder: Path) -> AnyDetector:
    made = load_exported(write_detector(folder / "cells.onnx"))
    assert isinstance(made, ExportedDetector)
    return made


KINDS = pytest.mark.parametrize("make", [single, ensemble, views, exported])
Make = Callable[[list[RCNN], Path], AnyDetector]


def assert_same(first: Detections, second: Detections) -> None:
    assert len(first) == len(second) > 1
    assert torch.equal(first.labels, second.labels)
    torch.testing.assert_close(first.boxes, second.boxes, rtol=0, atol=1e-3)
    torch.testing.assert_close(first.scores, second.scores, rtol=0, atol=1e-5)
    assert first.encoded_masks() == second.encoded_masks()


def to_xywh(found: Detections) -> np.ndarray:
    boxes = found.boxes.numpy()
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


@KINDS
@pytest.mark.parametrize(("tile", "overlap"), [(SIDE, 0.0), (1000, 0.9)])
def test_an_image_in_one_tile_is_seen_whole(
    make: Make, tile: int, overlap: float, networks: list[RCNN], pixels: np.ndarray, tmp_path: Path
) -> None:
    model, image = make(networks, tmp_path), pixels[:SIDE, :SIDE]
    assert_same(model.predict(image), model.predict(image, tile=tile, overlap=overlap))


@KINDS
@pytest.mark.parametrize("overlap", [0.0, 0.25])
def test_tiles_are_predicted_as_images_are(
    make: Make, overlap: float, networks: list[RCNN], pixels: np.ndarray, tmp_path: Path
) -> None:
    model, tiling = make(networks, tmp_path), Tiling(SIDE, overlap)
    merger = TileMerger(tiling, (120, 150))
    for number, (x1, y1, x2, y2) in enumerate(merger.windows.tolist()):
        one = model.predict(np.ascontiguousarray(pixels[y1:y2, x1:x2]))
        assert isinstance(one, Detections)
        merger.add(number, one)
    found = model.predict(pixels, tile=SIDE, overlap=overlap, batch_size=3)
    assert_same(merger.merged(), found)


def test_an_export_is_evaluated_in_tiles(nuclei: Path, tmp_path: Path) -> None:
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    truth["images"] = truth["images"][:2]
    ids = [image["id"] for image in truth["images"]]
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in ids]
    (tmp_path / "val.json").write_text(json.dumps(truth))
    values, names = tiny_detector.VALUES, [each["name"] for each in truth["categories"]]
    val = {"images": str(nuclei / "images"), "annotations": str(tmp_path / "val.json")}
    data = {**values["data"], "val": val, "tile": {"size": 160, "overlap": 0.1}, "workers": 0}
    path = write_detector(
        tmp_path / "cells.onnx",
        config={**values, "data": data, "eval": {"batch_size": 3}},
        class_names=[*names, "dirt"],
        category_ids=[1, 30],
    )
    _, validation = evaluate_run(path, device="cpu")
    model, found = load_exported(path), validation.result.detections
    for place, image in enumerate(truth["images"]):
        own = model.predict(nuclei / "images" / image["file_name"])
        rows = np.flatnonzero((found.images == place) & (found.labels == 0))
        expected = to_xywh(own[own.labels == 0])
        np.testing.assert_allclose(np.sort(found.boxes[rows], 0), np.sort(expected, 0), atol=1e-3)
        assert own.rles is not None and len(own) > 2


@pytest.mark.slow  # an export of ONNX
def test_an_export_predicts_in_tiles_as_its_detector(
    networks: list[RCNN], pixels: np.ndarray, tmp_path: Path
) -> None:
    run = write_checkpoint(tmp_path / "run" / "best.pt", networks[0])
    sizes = [f"data.test_resize.short_edge={SIDE}", f"data.test_resize.max_size={2 * SIDE}"]
    out = tmp_path / "cells.onnx"
    export_command(str(run), out, form=Form(dynamic=True), overrides=sizes)
    model, own = load_exported(out), load_models([run], overrides=sizes)
    assert model.tile_scale == own.tile_scale
    for overlap in (0.0, 0.25):
        expected = own.predict(pixels, tile=SIDE, overlap=overlap, precision="fp32")
        got = model.predict(pixels, tile=SIDE, overlap=overlap, batch_size=2)
        assert len(got) == len(expected) and torch.equal(got.labels, expected.labels)
        torch.testing.assert_close(got.boxes, expected.boxes, rtol=0, atol=0.05)
        torch.testing.assert_close(got.scores, expected.scores, rtol=0, atol=1e-3)


def test_a_tile_that_does_not_fit_into_an_export(nuclei: Path, tmp_path: Path) -> None:
    model = load_exported(write_detector(tmp_path / "a.onnx", batch=1, height=128, width=128))
    image = Image.open(sorted((nuclei / "images").iterdir())[0])
    assert len(model.predict(image, tile=128)) > 1
    with pytest.raises(UserError, match=r"128×128 pixels.*or give smaller tiles \(--tile\)"):
        model.predict(image, tile=160)
