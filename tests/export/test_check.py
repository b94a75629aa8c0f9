"""Whether an export is checked against what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.export import check as checking
from resdet.export.description import describe
from resdet.export.graph import DetectorGraph
from resdet.export.images import images_to_check
from resdet.hardware import Precision
from resdet.inference.exported import ExportedDetector
from tests.export.exports import make


@pytest.mark.parametrize(
    ("added", "wanted"),
    [
        ({}, None),
        ({"scores": 0.01}, "largest difference of score is 0.01"),
        ({"boxes": 1.0}, "largest difference of box is "),
        ({"masks": np.nan}, "largest difference of mask is inf"),
    ],
)
def test_a_fixed_size_is_compared_on_the_same_padding(
    nuclei: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    added: dict[str, float],
    wanted: str | None,
) -> None:
    model = make("mask")
    model.test_short_edge, model.test_max_size = 64, 96
    graph = DetectorGraph(model)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        assert inputs["images"].shape == (1, 3, 96, 128)
        with torch.no_grad():
            outputs = graph(*map(torch.from_numpy, inputs.values()))
        for name, value in added.items():
            outputs[name] = outputs[name] + value
        return {name: values.numpy() for name, values in outputs.items()}

    about = describe(model, source="test", dynamic=False, height=96, width=128, batch=1)
    precision = Precision("fp32", "export", "as exported")
    exported = ExportedDetector(Path("x.onnx"), about, run, None, precision)
    monkeypatch.setattr(checking, "load_exported", lambda *_, **__: exported)
    images = images_to_check(model, nuclei / "images", count=1)
    result = checking.check(model, Path("x.onnx"), images)
    assert checking.UNPADDED in result.differences
    assert result.differences[checking.UNPADDED].box > 0.1, "the padding does change what is seen"
    assert checking.UNPADDED in capsys.readouterr().out
    if wanted is None:
        assert result.failure is None and result.differences["onnxruntime"].matched > 10
    else:
        assert wanted in str(result.failure) and checking.UNPADDED not in str(result.failure)
