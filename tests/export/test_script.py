"""OUT.py beside an exported model gives what `predict` gives, where resdet and torch are absent."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

import resdet
from resdet.export.description import write_beside
from resdet.export.openvino import write_ir
from resdet.files.exported import Resize, read_description
from resdet.files.pixels import resize_image
from tests.inference.handmade import write_classifier, write_detector

WITHOUT = """
import contextlib, io, json, runpy, sys
for name in ("resdet", "torch", "torchvision"):
    sys.modules[name] = None
outputs = []
images = sys.argv[2:]
for script in sys.argv[1].split(","):
    sys.argv, text = [script, *images], io.StringIO()
    with contextlib.redirect_stdout(text):
        runpy.run_path(script, run_name="__main__")
    outputs.append(json.loads(text.getvalue()))
print(json.dumps(outputs))
"""
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rounded": {"mask_paste": "rounded"},
    "float": {"test_resize": Resize(short_edge=96, max_size=100, method="float")},
    "fixed": {"batch": 2, "height": 160, "width": 160},
    "unmasked": {"mask_paste": None, "mask_size": None},
}


def run(paths: list[Path], images: list[Path]) -> list[list[dict[str, Any]]]:
    """The records of OUT.py beside each model."""
    scripts = ",".join(str(path.with_suffix(".py")) for path in paths)
    command = [sys.executable, "-c", WITHOUT, scripts, *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    outputs: list[list[dict[str, Any]]] = json.loads(done.stdout)
    return outputs


def overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    union = coco_mask.area(coco_mask.merge([one, other]))
    return float(coco_mask.area(coco_mask.merge([one, other], intersect=True)) / union)


def test_detectors_and_classifiers(tmp_path: Path, nuclei: Path) -> None:
    images = sorted((nuclei / "images").iterdir())[:2]
    paths = [
        write_detector(tmp_path / f"{name}.onnx", **changes) for name, changes in VARIANTS.items()
    ]
    paths.append(write_classifier(tmp_path / "classes.onnx", ["top", "bottom"], batch=2))
    for path, records in zip(paths, run(paths, images), strict=True):
        predictions = resdet.load(path).predict(images)
        assert isinstance(predictions, list)
        assert [record["file"] for record in records] == list(map(str, images))
        for record, one in zip(records, predictions, strict=True):
            np.testing.assert_allclose(record["scores"], one.scores, atol=1e-6)
            if not isinstance(one, resdet.Detections):
                assert record["names"] == one.names
                continue
            np.testing.assert_allclose(record["boxes"], one.boxes, atol=1e-3)
            assert record["labels"] == one.labels.tolist()
            assert record["names"] == [one.class_names[label] for label in one.labels]
            masks = one.encoded_masks()
            assert (masks is None) == ("masks" not in record) == (path.stem == "unmasked")
            for mask, rle in zip(record.get("masks", ()), masks or (), strict=True):
                theirs = coco_mask.frPyObjects(mask, *mask["size"])
                assert overlap(theirs, rle) > 0.999


@pytest.mark.parametrize("method", ["pillow", "float"])
def test_the_sizes_are_those_of_resdet(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_detector(
        tmp_path / "sizes.onnx",
        test_resize=Resize(short_edge=80, max_size=133, method=method),  # type: ignore[arg-type]
    )
    script = runpy.run_path(str(path.with_suffix(".py")))
    about = json.loads(path.with_suffix(".json").read_text())
    random = np.random.default_rng(0)
    for height, width in [(37, 61), (200, 90), (81, 80), (10, 300), (150, 150)]:
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        wanted = resize_image(pixels, 80, 133, method)
        given = script["resize"](about, pixels)
        assert given.dtype == wanted.dtype
        np.testing.assert_allclose(given, wanted, atol=0.005)  # of 255


def test_it_runs_one_of_several_models(
    tmp_path: Path,
    nuclei: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = write_detector(tmp_path / "cells.onnx")
    last = tmp_path / "cells.xml"
    write_ir(first, last)
    write_beside(last, read_description(first))
    image = sorted((nuclei / "images").iterdir())[0]

    def records(*words: str) -> Any:
        script = str(last.with_suffix(".py"))
        monkeypatch.setattr(sys, "argv", [script, *words, str(image)])
        runpy.run_path(script, run_name="__main__")
        return json.loads(capsys.readouterr().out)

    by_default = records()
    last.write_text("no model")
    with pytest.raises(RuntimeError):
        records()
    for record, other in zip(by_default, records(str(first)), strict=True):
        assert record["labels"] == other["labels"] and len(record["labels"]) == 2
        np.testing.assert_allclose(record["boxes"], other["boxes"], atol=1e-4)
    last.unlink()
    assert len(records()) == 1
