"""Exported models in less precision: weights in half precision, or convolutions in 8 bits.

8 bits follow from the ranges that each map has on calibration images (post-training static
quantisation; Jacob et al. 2018): weights per output channel, maps as a whole. Convolutions, the
layers of the box head and the additions between them are computed so; boxes, scores, NMS and
pooling stay in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resdet.dependencies import import_extra
from resdet.export.images import Images
from resdet.export.network import Network
from resdet.export.onnx import write_onnx
from resdet.export.openvino import write_ir
from resdet.export.refusals import refusing
from resdet.files.exported import Description
from resdet.files.writing import write_bytes
from resdet.inference.exported import input_arrays
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.structures import collate_images

Inputs = dict[str, NDArray[Any]]
"""Of an exported model, by name."""
SMALLEST = 1024
"""Elements of a weight that is stored in half precision."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that are computed in 8 bits, where their weights are constant."""
ALONGSIDE = ("Add", "Relu", "MaxPool", "GlobalAveragePool")
"""Operators between them, that need not leave 8 bits."""


def write_lowered(
    network: Network,
    out: Path,
    precision: Literal["fp16", "int8"],
    *,
    description: Description,
    calibration: Images | None = None,
) -> None:
    """Write `network` as an .onnx file, or as an .xml file with its .bin, in less precision.

    fp16 halves the file; onnxruntime computes in fp32 from it, and OpenVINO in what the processor
    is fastest in. int8 needs `calibration`; OpenVINO's file is made of the ONNX graph in 8 bits.
    """
    is_ir = out.suffix.lower() == ".xml"
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.stem[:40]}.") as name:
        source, lowered = Path(name) / "fp32.onnx", Path(name) / "lowered.onnx"
        write_onnx(network, source)
        if precision == "int8":
            assert calibration is not None, "int8 is calibrated"
            inputs = feeds(out, network.model, description, calibration)
            remedy = "export with --precision fp32 or fp16, or update onnxruntime"
            with refusing(f"{network.source}: onnxruntime does not quantise it", remedy, out):
                quantise_onnx(source, lowered, inputs)
        elif not is_ir:
            halve_onnx(source, lowered)
        if is_ir:
            half = precision == "fp16"
            write_ir(source if half else lowered, out, halve=half)
        else:
            write_bytes(out, lowered.read_bytes())


def feeds(
    path: Path, model: RCNN | Classifier, description: Description, images: Images
) -> Iterator[Inputs]:
    """The inputs of the export that will be `path`, for one image at a time."""
    for index in range(len(images)):
        prepared = model.prepare(images.read(index))
        if isinstance(model, Classifier):
            yield {"images": prepared[None].numpy()}
            continue
        batch = collate_images([prepared], model.size_divisibility)
        inputs = input_arrays(path, description, batch)
        if description.pasted:
            inputs["original_sizes"] = inputs["sizes"]
        yield inputs


def halve_onnx(path: Path, out: Path) -> None:
    """Weights as float16, each followed by a cast to float32."""
    onnx = import_extra("onnx", "export", "an export in fp16")
    model = onnx.load(path)
    graph = model.graph
    weights = {name for node in graph.node if node.op_type in LAYERS for name in node.input[1:2]}
    casts = []
    for tensor in graph.initializer:
        if tensor.name not in weights or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        half = values.astype(np.float16)
        if values.size < SMALLEST or not np.isfinite(half).all():
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    write_bytes(out, model.SerializeToString())


def quantise_onnx(path: Path, out: Path, inputs: Iterator[Inputs]) -> None:
    """In 8 bits, by the ranges of `inputs`: pairs of QuantizeLinear and DequantizeLinear stand
    around what is computed so."""
    onnx = import_extra("onnx", "export", "an export in int8")
    quantization = import_extra("onnxruntime.quantization", "export", "an export in int8")
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(path, prepared, skip_symbolic_shape=True)  # merges norms into convolutions

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def get_next(self) -> Inputs | None:
            return next(inputs, None)

    quantization.quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=[*LAYERS, *ALONGSIDE],
        nodes_to_quantize=layers_in_int8(onnx.load(prepared).graph),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"CalibMovingAverage": True, "ActivationSymmetric": False},
    )
    prepared.unlink()


def layers_in_int8(graph: Any) -> list[str]:
    """The nodes that are computed in 8 bits: layers of constant weights, and what is between them.

    The last layers, whose results are scores and deltas of boxes, stay as they are.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    used_by: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)
    constant = {tensor.name for tensor in graph.initializer}
    chosen: dict[str, Any] = {}
    for node in graph.node:  # sorted: what makes an input comes first
        inputs = [made_by.get(name) for name in node.input]
        if node.op_type in LAYERS:
            is_layer = len(node.input) > 1 and node.input[1] in constant
            if is_layer and not _is_last(node, used_by):
                chosen[node.name] = node
        elif node.op_type in ALONGSIDE and any(
            each is not None and each.name in chosen for each in inputs
        ):
            chosen[node.name] = node
    return list(chosen)


def _is_last(node: Any, used_by: dict[str, list[Any]]) -> bool:
    """Whether no other layer follows, directly or after a ReLU and the like."""
    waiting, seen = list(node.output), set()
    while waiting:
        for user in used_by.get(waiting.pop(), []):
            if user.op_type in LAYERS:
                return False
            if user.name not in seen and user.op_type not in ENDS:
                seen.add(user.name)
                waiting += user.output
    return True


ENDS = ("Softmax", "Sigmoid", "Exp", "TopK", "GatherND", "NonMaxSuppression")
"""Operators past which there are scores and boxes, no maps."""
