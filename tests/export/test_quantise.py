"""Exported models in half precision and in 8 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from resdet.export.description import describe, write_beside
from resdet.export.images import images_to_calibrate
from resdet.export.network import Network
from resdet.export.quantise import (
    feeds,
    halve_onnx,
    layers_in_int8,
    quantise_onnx,
    write_lowered,
)
from resdet.files.exported import Crop, Description
from resdet.inference.exported import load_exported
from resdet.models.classifier import Classifier
from tests.models.tiny_classifier import configured

NAMES = ["one", "two", "three"]


def write_network(path: Path) -> Description:
    """A small residual network with random weights."""
    random = np.random.default_rng(0)
    weights = {
        "stem": random.normal(0, 0.005, (32, 3, 5, 5)),
        "conv": random.normal(0, 0.06, (32, 32, 3, 3)),
        "head": random.normal(0, 1, (len(NAMES), 32)),
    }
    node = helper.make_node
    nodes = [
        node("Cast", ["images"], ["pixels"], "cast", to=TensorProto.FLOAT),
        node("Conv", ["pixels", "stem"], ["a"], "stem_layer", strides=[2, 2]),
        node("Relu", ["a"], ["b"], "relu"),
        node("Conv", ["b", "conv"], ["c"], "conv_layer", pads=[1, 1, 1, 1]),
        node("Add", ["b", "c"], ["d"], "shortcut"),
        node("GlobalAveragePool", ["d"], ["e"], "pool"),
        node("Flatten", ["e"], ["f"], "flat"),
        node("Gemm", ["f", "head"], ["g"], "head_layer", transB=1),
        node("Softmax", ["g"], ["probabilities"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(NAMES)])],
        [numpy_helper.from_array(value.astype(np.float32), n) for n, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    about = Description(
        task="classification",
        class_names=NAMES,
        crop=Crop(short_edge=72, size=64, interpolation="bilinear"),
        dynamic=True,
        source="test",
        resdet="1",
        torch="2",
    )
    return write_beside(path, about)


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Description, Classifier]:
    path = tmp_path / "small.onnx"
    about = write_network(path)
    model = load_exported(path)
    assert isinstance(model, Classifier)
    return path, about, model


def probabilities(model: Classifier, images: list[Path]) -> torch.Tensor:
    answers = model.predict(images)
    assert isinstance(answers, list)
    return torch.stack([answer.probabilities for answer in answers])


@pytest.mark.parametrize(("precision", "apart"), [("fp16", 2e-3), ("int8", 0.15)])
def test_numbers_stay_close(
    exported: tuple[Path, Description, Classifier], nuclei: Path, precision: str, apart: float
) -> None:
    path, about, model = exported
    images = sorted((nuclei / "images").iterdir())[:6]
    before, size = probabilities(model, images), path.stat().st_size
    path = path.with_name(f"{precision}.onnx")
    if precision == "fp16":
        halve_onnx(exported[0], path)
    else:
        calibration = images_to_calibrate(model, nuclei / "images", count=4)
        quantise_onnx(exported[0], path, feeds(path, model, about, calibration))
    write_beside(path, about.model_copy(update={"precision": precision}))
    lowered = load_exported(path)
    assert isinstance(lowered, Classifier) and lowered.fixed_precision is not None
    assert lowered.fixed_precision.name == precision and path.stat().st_size < 0.6 * size
    after = probabilities(lowered, images)
    assert 0 < float((after - before).abs().max()) < apart


def test_which_layers_are_in_8_bits(exported: tuple[Path, Description, Classifier]) -> None:
    graph = onnx.load(exported[0]).graph
    assert layers_in_int8(graph) == ["stem_layer", "relu", "conv_layer", "shortcut", "pool"]
    assert Counter(node.op_type for node in graph.node)["QuantizeLinear"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "apart"), [("fp16", 0.02), ("int8", 0.1)])
@pytest.mark.parametrize("suffix", [".onnx", ".xml"])
def test_an_export_in_less_precision(
    tmp_path: Path, nuclei: Path, suffix: str, precision: str, apart: float
) -> None:
    model = configured(NAMES)
    out = tmp_path / f"small{suffix}"
    about = describe(
        model,
        source="test",
        dynamic=False,
        height=32,
        width=32,
        batch=1,
        precision=precision,  # type: ignore[arg-type]
    )
    calibration = images_to_calibrate(model, nuclei / "images", count=4)
    network = Network(model, (32, 32))
    write_lowered(network, out, precision, description=about, calibration=calibration)  # type: ignore[arg-type]
    write_beside(out, about)
    images = sorted((nuclei / "images").iterdir())[:3]
    lowered = load_exported(out)
    assert isinstance(lowered, Classifier)
    apart_by = (probabilities(lowered, images) - probabilities(model, images)).abs().max()
    assert 0 < float(apart_by) < apart
    assert not list(tmp_path.glob(".*"))
