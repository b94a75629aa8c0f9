"""Mask R-CNN of resdet and of torchvision, exported, in onnxruntime and OpenVINO."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Collection, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor, nn

from resdet.export.description import describe, write_beside
from resdet.export.network import Network
from resdet.export.onnx import write_onnx
from resdet.export.quantise import halve_onnx, quantise_onnx
from resdet.files.exported import Precision
from resdet.inference.exported import ExportedDetector, input_arrays, load_exported
from resdet.structures import collate_images
from tools.benchmark.detectors import (
    inference_step,
    load_scene,
    resdet_model,
    torchvision_model,
    torchvision_options,
)
from tools.benchmark.turns import Contender, Step

RUNTIMES = ("onnxruntime", "openvino")
OURS: dict[str, tuple[Precision, ...]] = {
    "onnxruntime": ("fp32", "int8"),
    "openvino": ("fp32", "fp16", "int8"),
}
"""Precisions of our exports by runtime; OpenVINO computes in bf16 from fp16 if the processor does.
"""
THEIRS = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
"""Precisions that torchvision's exports are computed in."""
THEIR_FILES = {"onnxruntime": "torchvision.onnx", "openvino": "torchvision.xml"}
HINTS = {"fp32": "f32", "bf16": "bf16"}
_HERE = "tools.benchmark.exports"


def export_contenders(scene: str, folder: Path, runtimes: Sequence[str]) -> list[Contender]:
    """The exports, written into `folder` first; UserError where a package is missing."""
    context = torch.multiprocessing.get_context("spawn")
    # a process of their own gives the memory that exporting takes back to the machine
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        pool.submit(_write_exports, scene, folder, runtimes).result()
    contenders = []
    for runtime in runtimes:
        for precision in OURS[runtime]:
            path = str(_our_path(folder, precision))
            given = {"scene": scene, "path": path, "runtime": runtime}
            name = f"resdet, {runtime}, {precision}"
            contenders.append(Contender(name, f"{_HERE}:make_resdet_export", given))
    for runtime in runtimes:
        path = str(folder / THEIR_FILES[runtime])
        for computed in THEIRS[runtime]:
            given = {"scene": scene, "path": path, "runtime": runtime, "precision": computed}
            name = f"torchvision, {runtime}, {computed}"
            contenders.append(Contender(name, f"{_HERE}:make_torchvision_export", given))
    return contenders


def _write_exports(scene: str, folder: Path, runtimes: Sequence[str]) -> None:
    found = load_scene(scene)
    _write_ours(found, folder, {each for runtime in runtimes for each in OURS[runtime]})
    model = torchvision_model(found["num_classes"], **torchvision_options(found)).eval()
    model.load_state_dict(torch.load(found["weights"], weights_only=True))
    image = found["images"][0].float() / 255
    for runtime in runtimes:
        with warnings.catch_warnings(action="ignore"):  # dozens, about torchvision's own code
            _WRITERS[runtime](_Outputs(model), image, folder / THEIR_FILES[runtime])


def _our_path(folder: Path, precision: Precision) -> Path:
    return folder / f"resdet_{precision}.onnx"


def _write_ours(scene: dict[str, Any], folder: Path, precisions: Collection[Precision]) -> None:
    """Our model as ONNX in these precisions, for images of the scene's size."""
    # the scene's images are uint8, as Pillow resizes them
    model = resdet_model(scene, ["train.precision=fp32", "data.test_resize.method=pillow"])
    multiple = model.size_divisibility
    height, width = (-(-side // multiple) * multiple for side in scene["images"].shape[2:])
    first = folder / "first.onnx"
    write_onnx(Network(model, (height, width)), first)
    for precision in precisions:
        path = _our_path(folder, precision)
        description = describe(
            model,
            source="benchmark",
            dynamic=False,
            height=height,
            width=width,
            batch=1,
            precision=precision,
        )
        if precision == "fp32":
            shutil.copy(first, path)
        elif precision == "fp16":
            halve_onnx(first, path)
        else:
            batches = (collate_images([image], multiple) for image in scene["images"])
            quantise_onnx(first, path, (input_arrays(path, description, each) for each in batches))
        write_beside(path, description)


def make_resdet_export(*, scene: str, path: str, runtime: str) -> tuple[Step, str]:
    """From the resized image to pasted masks, as `make_resdet_inference`."""
    model = load_exported(path, runtime=runtime)
    assert isinstance(model, ExportedDetector)
    return inference_step(model, load_scene(scene)), ""


def make_torchvision_export(
    *, scene: str, path: str, runtime: str, precision: str
) -> tuple[Step, str]:
    """torchvision's model as its own exporters give it: masks are pasted inside, and an image is
    resized again, to its own size."""
    run = _OPENERS[runtime](path, precision)
    found = load_scene(scene)
    endless = itertools.cycle(found["images"].split(found["batch_size"]))

    def step() -> Any:
        batch = (next(endless).float() / 255).numpy()
        return [run(each)[OUTPUTS.index("masks")][:, 0] > 0.5 for each in batch]

    return step, ""


class _Outputs(nn.Module):
    """torchvision's detector with tensors for results."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        found = self.model([image])[0]
        return tuple(found[name] for name in OUTPUTS)


OUTPUTS = ("boxes", "labels", "scores", "masks")


def _write_onnx(model: nn.Module, image: Tensor, path: Path) -> None:
    # torch.export does not take torchvision's detectors: the older exporter
    torch.onnx.export(
        model,
        (image,),
        path,
        opset_version=18,
        dynamo=False,
        input_names=["image"],
        output_names=OUTPUTS,
    )


def _write_openvino(model: nn.Module, image: Tensor, path: Path) -> None:
    import openvino

    converted = openvino.convert_model(model, example_input=image)
    openvino.save_model(converted, path, compress_to_fp16=False)


def _open_onnxruntime(path: str, precision: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options)
    return lambda image: session.run(OUTPUTS, {"image": image})


def _open_openvino(path: str, precision: str) -> Any:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    return lambda image: list(compiled([image]).values())


_WRITERS = {"onnxruntime": _write_onnx, "openvino": _write_openvino}
_OPENERS = {"onnxruntime": _open_onnxruntime, "openvino": _open_openvino}
