"""Exported models made by hand: their outputs are known without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resdet.export.description import write_beside
from resdet.files.exported import Crop, Description, Resize
from tests.models import tiny_classifier, tiny_detector

SHARES = np.array([[0.1, 0.2, 0.6, 0.9], [0.5, 0.0, 1.0, 0.5], [0, 0, 0, 0]], np.float32)
"""Boxes xyxy in shares of the image's size; the last row is no detection."""
SCORES = np.array([0.9, 0.4, 0], np.float32)
LABELS = np.array([1, 0, 0], np.int64)
MASKS = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(1, 28, 28).repeat(3, 0)


def write_detector(path: Path, **changes: Any) -> Path:
    """One with two detections in every image, at `SHARES` of it; `changes` are made to its
    description, of which `batch`, `height` and `width` are those of its inputs too."""
    about = describe_detector(**changes)
    batch = about.batch or "N"
    assert about.test_resize is not None
    kind = TensorProto.FLOAT if about.test_resize.method == "float" else TensorProto.UINT8
    images = [batch, 3, about.height or "H", about.width or "W"]
    constants = {
        "shares": SHARES[None],
        "scores_1": SCORES[None],
        "labels_1": LABELS[None],
        "masks_1": MASKS[None],
        "swapped": np.array([1, 0, 1, 0]),
        "axis": np.array([1]),
        "two": np.array([2]),
    }
    nodes = [
        helper.make_node("Cast", ["sizes"], ["float_sizes"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["float_sizes", "swapped"], ["sides"], axis=1),
        helper.make_node("Unsqueeze", ["sides", "axis"], ["each"]),
        helper.make_node("Mul", ["each", "shares"], ["boxes"]),
        helper.make_node("Shape", ["images"], ["rows"], start=0, end=1),
        helper.make_node("Expand", ["two", "rows"], ["counts"]),
    ]
    for name in ("scores", "labels", "masks"):
        ones = np.array([1] * (constants[f"{name}_1"].ndim - 1))
        constants[f"{name}_tail"] = ones
        nodes += [
            helper.make_node("Concat", ["rows", f"{name}_tail"], [f"{name}_shape"], axis=0),
            helper.make_node("Expand", [f"{name}_1", f"{name}_shape"], [name]),
        ]
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [batch, 3, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3]),
        helper.make_tensor_value_info("labels", TensorProto.INT64, [batch, 3]),
        helper.make_tensor_value_info("masks", TensorProto.FLOAT, [batch, 3, 28, 28]),
        helper.make_tensor_value_info("counts", TensorProto.INT64, [batch]),
    ]
    inputs = [
        helper.make_tensor_value_info("images", kind, images),
        helper.make_tensor_value_info("sizes", TensorProto.INT64, [batch, 2]),
    ]
    if about.mask_size is None:
        nodes, outputs = nodes[:-2], [each for each in outputs if each.name != "masks"]
    _save(path, nodes, inputs, outputs, constants)
    write_beside(path, about)
    return path


def describe_detector(**changes: Any) -> Description:
    model = tiny_detector.make_detector()
    values: dict[str, Any] = {
        "task": "detection",
        "class_names": model.class_names,
        "category_ids": model.category_ids,
        "test_resize": Resize(short_edge=96, max_size=160, method="pillow"),
        "size_divisibility": 32,
        "dynamic": "batch" not in changes,
        "mask_paste": "continuous",
        "mask_size": 28,
        "detections_per_image": 3,
        "score_thresh": 0.05,
        "source": "runs/tiny",
        "resdet": "0.1.0",
        "torch": "2",
        "config": tiny_detector.VALUES,
    }
    return Description(**values | changes)


def write_classifier(path: Path, class_names: list[str], **changes: Any) -> Path:
    """One whose probabilities are the softmax of the mean of each third of the crop's rows / 64."""
    side = 32
    batch = changes.get("batch") or "N"
    constants = {
        "shape": np.array([0, 3, len(class_names), -1]),
        "last": np.array([1, 3]),
        "scale": np.array(64, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "shape"], ["parts"]),
        helper.make_node("ReduceMean", ["parts", "last"], ["means"], keepdims=0),
        helper.make_node("Div", ["means", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, 3, side, side])]
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch, len(class_names)])
    ]
    _save(path, nodes, inputs, outputs, constants)
    values: dict[str, Any] = {
        "task": "classification",
        "class_names": class_names,
        "crop": Crop(short_edge=40, size=side, interpolation="bilinear"),
        "dynamic": "batch" not in changes,
        "height": side,
        "width": side,
        "source": "runs/tiny",
        "resdet": "0.1.0",
        "torch": "2",
        "config": tiny_classifier.VALUES,
    }
    write_beside(path, Description(**values | changes))
    return path


def _save(
    path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Any]
) -> None:
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "handmade", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
