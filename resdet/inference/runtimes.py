"""Exported models in the runtime that computes them: onnxruntime, OpenVINO or torch, on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resdet.dependencies import import_extra
from resdet.errors import UserError
from resdet.files.exported import Description

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]
"""From input arrays to output arrays, both by the names of `Description`; safe in any thread."""


def open_onnxruntime(path: Path, about: Description) -> Run:
    onnxruntime = import_extra("onnxruntime", "export", str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))


def open_openvino(path: Path, about: Description) -> Run:
    """.xml with its .bin, or .onnx."""
    openvino = import_extra("openvino", "export", str(path))
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    if about.precision == "fp32":
        # else bf16 on a processor that computes in it
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    model = openvino.Core().compile_model(path, "CPU", settings)
    threads = threading.local()  # a request computes for one thread at a time

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        if not hasattr(threads, "request"):
            threads.request = model.create_infer_request()
        results = threads.request.infer(dict(inputs))
        return {key.any_name: value for key, value in results.items()}

    return run


def open_torch(path: Path, about: Description) -> Run:
    """A program of torch.export: its graph is run, no code of the file."""
    import_extra("torchvision", "export", str(path))  # its operators are in the graph
    module = torch.export.load(path).module()

    def run(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(each) for each in inputs.values()))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


RUNTIMES: dict[str, Callable[[Path, Description], Run]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "torch": open_torch,
}
OF_SUFFIX = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".pt2": ("torch",)}
"""Which can run the files of each suffix, the default first."""


def open_model(path: Path, about: Description, name: str) -> Run:
    """The model of a file, whose description has been checked, in the runtime `name`. The images
    and sizes of a fixed export may be fewer than its batch, and smaller.

    UserError where the runtime is not installed, or refuses the file.
    """
    try:
        run = RUNTIMES[name](path, about)
    except UserError:
        raise
    except Exception as error:  # each runtime raises its own kinds
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: {name} does not load it ({reason:.300}); update {name}, or export the model "
            "again"
        ) from error
    return run if about.batch is None else _in_batches(run, about.batch)


def _in_batches(run: Run, size: int) -> Run:
    """For any number of rows: as many at once as a fixed batch has, the last one repeated."""

    def run_all(inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        count = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            parts.append(run({name: values[rows] for name, values in inputs.items()}))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    return run_all
