"""Trained models for other runtimes: ONNX, OpenVINO and torch.export."""

from collections.abc import Callable
from pathlib import Path

from resdet.export.network import Network
from resdet.export.onnx import write_onnx
from resdet.export.openvino import write_openvino
from resdet.export.torch_export import write_torch_export

EXPORTS: dict[str, Callable[[Network, Path], None]] = {
    ".onnx": write_onnx,
    ".xml": write_openvino,
    ".pt2": write_torch_export,
}
"""What writes a file of this suffix, in fp32; a module named in `imports` may add its own."""
