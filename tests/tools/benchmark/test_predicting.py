"""predict.py and its network alone do the same work, and a run gives its table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory import build_model
from tests.models.tiny_detector import VALUES, write_checkpoint
from tools.benchmark import predicting


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    torch.manual_seed(0)
    config = config_from_dict(VALUES, "the test")
    model = build_model(config, class_names=["cell", "dirt"], category_ids=[7, 30]).eval()
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        pixels = rng.integers(0, 256, (90, 120 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    weights = write_checkpoint(tmp_path / "best.pt", model)
    return {"images": str(folder), "weights": str(weights), "batch_size": 2}


def test_both_find_the_same(given: dict[str, Any], tmp_path: Path) -> None:
    work = predicting.Work(**given, source=None, device="cpu", score_thresh=0.0)
    alone, note = predicting.make_network(work=work)
    whole = predicting.make_predict(work=work, out=str(tmp_path / "out"))
    assert alone() == whole() == whole() == 30
    assert note == "10.0 detections per image"
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == 30
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.slow  # two processes that import torch
def test_a_run_gives_its_table(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = predicting.benchmark_predict(**given, device="cpu", rounds=1, out=tmp_path)
    assert [row["name"] for row in rows] == ["the network alone", "predict.py"]
    assert all(row["items"] == 3 and row["seconds"] > 0 for row in rows)
    assert "predict.py, 3 images, batches of 2, cpu" in capsys.readouterr().out
    assert json.loads((tmp_path / "benchmark_predict.json").read_text())["score_thresh"] == 0.5


def test_a_folder_without_images(given: dict[str, Any], tmp_path: Path) -> None:
    given["images"] = str(tmp_path / "none")
    with pytest.raises(UserError, match="none"):
        predicting.benchmark_predict(**given, device="cpu")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none"):
        predicting.benchmark_predict(**given, device="cpu")
