"""ONNX files, by torch's exporter on top of torch.export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from resdet.dependencies import import_extra
from resdet.export.network import Network
from resdet.export.refusals import refusing, without_notes
from resdet.files.writing import write_bytes

OPSET = 18
INT64 = 7
"""ONNX's number of the type."""


def write_onnx(network: Network, out: Path) -> None:
    """Write `network` as one .onnx file."""
    write_bytes(out, to_onnx(network))


def to_onnx(network: Network) -> bytes:
    """The content of an .onnx file. UserError for operators that ONNX does not have."""
    for package in ("onnx", "onnxscript"):
        import_extra(package, "export", "an export to ONNX")
    program = network.program()
    remedy = "write it with other operators of torch, or export to .pt2, which needs no translation"
    with (
        without_notes(),
        refusing(f"{network.source}: torch does not translate the network to ONNX", remedy),
    ):
        translated = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(network.inputs()),
            output_names=output_names(program),
            custom_translation_table=translations(),
            verbose=False,
        )
        assert translated is not None
        _name_sides(translated.model, network)
        return translated.model_proto.SerializeToString()


def output_names(program: ExportedProgram) -> list[str]:
    """Of a program whose result is a dict."""
    names = program.call_spec.out_spec.context
    return [str(name) for name in names]


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How operators are written that the exporter does not know, or writes otherwise.

    `sampling_ratio` is always there: 0, as many samples as a bin has cells, is what a missing one
    means in ONNX, and OpenVINO reads it as 1.
    """
    import onnxscript

    op: Any = onnxscript.opset18

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def nms(boxes: Any, scores: Any, iou_thresh: float, limit: int) -> Any:
        lowest = torch.finfo(torch.float32).min  # only −inf takes no part
        return op.NonMaxSuppression(
            boxes,
            scores,
            op.Constant(value_int=limit),
            op.Constant(value_float=iou_thresh),
            op.Constant(value_float=lowest),
        )

    def roi_align(
        x: Any, rois: Any, scale: float, height: int, width: int, ratio: int, aligned: bool
    ) -> Any:
        return op.RoiAlign(
            x,
            op.Slice(rois, ints(1), ints(5), ints(1)),
            op.Cast(op.Gather(rois, op.Constant(value_int=0), axis=1), to=INT64),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            mode="avg",
            output_height=height,
            output_width=width,
            sampling_ratio=max(0, ratio),
            spatial_scale=scale,
        )

    def roi_pool(x: Any, rois: Any, scale: float, height: int, width: int) -> Any:
        pooled = op.MaxRoiPool(x, rois, pooled_shape=[height, width], spatial_scale=scale)
        return pooled, op.Constant(value_int=0)  # torchvision's second result is for gradients

    return {
        torch.ops.resdet.nms_by_rows.default: nms,
        torch.ops.torchvision.roi_align.default: roi_align,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }


def _name_sides(model: Any, network: Network) -> None:
    """Call the free dimensions of the inputs batch, height and width."""
    free = network.free() or {}
    names = {0: "batch", 2: "height", 3: "width"}
    batches = set()
    for value in model.graph.inputs:
        for side in free.get(value.name, {}):
            if side == 0:
                batches.add(value.shape[0])
            value.shape[side] = names[side]
    for value in model.graph.outputs:
        if value.shape is not None and value.shape[0] in batches:
            value.shape[0] = "batch"
