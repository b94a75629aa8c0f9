"""ONNX, OpenVINO and torch.export: files whose runtimes give the detections of eager torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from resdet.backbones import list_backbones
from resdet.export.graph import DetectorGraph
from resdet.export.network import Network
from resdet.export.onnx import OPSET, write_onnx
from resdet.export.openvino import write_ir
from resdet.export.paste import PastedGraph
from resdet.export.torch_export import write_torch_export
from tests.backbones.classifiers import build
from tests.export.exports import KINDS, assert_same, make, noise

Run = Callable[[Tensor, Tensor], dict[str, Any]]


def in_onnxruntime(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: Tensor, sizes: Tensor) -> dict[str, Any]:
        inputs = {"images": images.numpy(), "sizes": sizes.numpy()}
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


def in_openvino(path: Path) -> Run:
    import openvino

    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(images: Tensor, sizes: Tensor) -> dict[str, Any]:
        outputs = model([images.numpy(), sizes.numpy()])
        return {key.any_name: np.array(value) for key, value in outputs.items()}

    return run


def test_a_fixed_size_in_both_runtimes(tmp_path: Path) -> None:
    model = make("mask")
    path = tmp_path / "model.onnx"
    write_onnx(Network(model, (64, 96)), path)
    graph = onnx.load(path)
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [OPSET]
    aligns = [node for node in graph.graph.node if node.op_type == "RoiAlign"]
    assert len(aligns) == 8  # boxes and masks, from four levels
    for node in aligns:
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        assert attributes["sampling_ratio"] == 0
    types = {each.type.tensor_type.elem_type for each in graph.graph.value_info}
    assert onnx.TensorProto.DOUBLE not in types
    images, sizes = noise(64, 96)
    for run in (in_onnxruntime(path), in_openvino(path)):
        assert assert_same(model, run(images, sizes), images, sizes) > 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_images_of_any_size(kind: str, tmp_path: Path) -> None:
    model = make(kind)
    path = tmp_path / "model.onnx"
    write_onnx(Network(model, None), path)
    write_ir(path, tmp_path / "ir.xml")
    write_torch_export(Network(model, None), tmp_path / "program.pt2")
    program = torch.export.load(tmp_path / "program.pt2").module()
    runs = [in_onnxruntime(path), in_openvino(path), in_openvino(tmp_path / "ir.xml"), program]
    step = 1 if model.size_divisibility == 1 else 32
    # a side of 64 leaves one cell of the coarsest map
    for height, width, count in ((96, 128, 2), (160, 64, 1), (75, 203, 3), (64, 320, 1)):
        size = [math.ceil(side / step) * step for side in (height, width)]
        images, sizes = noise(*size, count)
        for run in runs:
            assert assert_same(model, run(images, sizes), images, sizes) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "C4", "cascade", "pool"])
@pytest.mark.parametrize("is_without", ["detections", "proposals"])
def test_nothing_at_all(kind: str, is_without: str, tmp_path: Path) -> None:
    model = make(kind, score_thresh=0.999)
    if is_without == "proposals":
        model.rpn.deltas.bias.data.fill_(-1e4)  # every box is empty after clipping
    path = tmp_path / "model.onnx"
    write_onnx(Network(model, None), path)
    images, sizes = noise(64, 96, 2)
    for run in (in_onnxruntime(path), in_openvino(path)):
        assert assert_same(model, run(images, sizes), images, sizes) == 0


@pytest.mark.slow
def test_masks_pasted_inside(tmp_path: Path) -> None:
    import onnxruntime

    model = make("mask")
    path = tmp_path / "model.onnx"
    write_onnx(Network(model, None, is_pasted=True), path)
    graph = PastedGraph(DetectorGraph(model))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for (height, width, count), original in (((96, 128, 2), (70, 90)), ((64, 64, 1), (33, 31))):
        images, sizes = noise(height, width, count)
        originals = torch.tensor([original] * count)
        with torch.no_grad():
            expected = graph(images, sizes, originals)
        inputs = {"images": images, "sizes": sizes, "original_sizes": originals}
        outputs = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        got = dict(zip(names, map(torch.from_numpy, outputs), strict=True))
        assert torch.equal(got["counts"], expected["counts"]) and expected["counts"].min() > 5
        assert got["masks"].dtype == torch.uint8
        assert (got["masks"] != expected["masks"]).float().mean() < 1e-3
        torch.testing.assert_close(got["boxes"], expected["boxes"], rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_backbones())
def test_classifiers_of_every_backbone(name: str, tmp_path: Path) -> None:
    import onnxruntime

    if any(depth in name for depth in ("101", "152", "1202", "110", "vgg16", "vgg19")):
        pytest.skip("the same layers as a smaller one of its family")
    torch.manual_seed(0)
    model = build(name, num_classes=10).eval()
    side = 32 if "cifar" in name else 224
    model.test_size = side
    write_onnx(Network(model, None), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images, _ = noise(side, side, 3)
    with torch.no_grad():
        expected = model.logits(model.normalize(images))[0].softmax(1)
    (got,) = session.run(["probabilities"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=1e-4)
