"""What `resdet export` runs: writes a trained model for another runtime and checks it."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.config.find import own_path
from resdet.dependencies import import_extra
from resdet.errors import Incomplete, UserError
from resdet.export import EXPORTS
from resdet.export.check import check as check_export
from resdet.export.description import describe, is_own_script, write_beside
from resdet.export.images import Images, images_to_calibrate, images_to_check
from resdet.export.network import Network
from resdet.export.quantise import write_lowered
from resdet.files.exported import Precision, described_beside, description_path
from resdet.files.writing import check_folder
from resdet.inference.combined import CombinedDetector
from resdet.inference.loading import load_models
from resdet.inference.runtimes import OF_SUFFIX
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN

log = logging.getLogger("resdet")


@dataclass(frozen=True)
class Form:
    """What is written."""

    dynamic: bool = False
    """Whether number and size of the images are free."""
    size: tuple[int, int] | None = None
    """The fixed height and width in pixels; None for the default."""
    precision: Precision = "fp32"
    pasted: bool = False
    """Whether masks are pasted inside."""
    calibrate: str | None = None
    """A folder of images for int8; None for the training images."""
    calibrate_images: int = 100
    """At most so many."""


@dataclass(frozen=True)
class Check:
    """What an export is compared with PyTorch on."""

    images: str
    """A folder, or val."""
    annotations: str | None = None
    """Their ground truth."""
    count: int = 20
    """At most so many images."""


def export_command(
    spec: str,
    out: str | Path,
    *,
    form: Form,
    source: str | None = None,
    overrides: Sequence[str] = (),
    check: Check | None = None,
) -> None:
    """Write the model `spec` to `out`, with OUT.json and OUT.py beside it, and check it.

    `spec`, `source` and `overrides` are those of `load_models`. UserError for a model that has no
    export, a form that it does not have, and files of others in the way; Incomplete where the
    check fails.
    """
    path = own_path(out)
    write = EXPORTS.get(path.suffix)
    if write is None:
        raise UserError(f"{out}: its extension selects the format: {', '.join(EXPORTS)}; rename it")
    _check_outputs(path)
    _check_packages(path, form, is_checked=check is not None)
    model = _load(spec, source, overrides)
    size = None if form.dynamic else _fixed_size(model, form.size)
    if form.pasted and (isinstance(model, Classifier) or not model.has_masks):
        raise UserError("--paste: the model has no masks; leave it out")
    description = describe(
        model,
        source=spec,
        dynamic=form.dynamic,
        height=size[0] if size else None,
        width=size[1] if size else None,
        batch=None if form.dynamic else 1,
        precision=form.precision,
        pasted=form.pasted,
    )
    described_beside(description, path)
    # read before the export, which takes a while
    images, calibration = None, None
    if form.precision == "int8":
        calibration = images_to_calibrate(model, form.calibrate, count=form.calibrate_images)
    if check is not None:
        images = images_to_check(model, check.images, check.annotations, count=check.count)
    for each in (calibration, images):
        _check_fit(model, size, each)
    network = Network(model, size, form.pasted, spec)
    if form.precision == "fp32":
        write(network, path)
    else:
        write_lowered(
            network, path, form.precision, description=description, calibration=calibration
        )
    write_beside(path, description)
    mb = sum(file.stat().st_size for file in _files(path) if file.is_file()) / 2**20
    log.info("%s: %s, %s, %.0f MB; %s and %s are beside it", path, form.precision,
             _sides(model, size), mb, description_path(path).name,
             path.with_suffix(".py").name)  # fmt: skip
    if images is not None and (failure := check_export(model, path, images).failure):
        raise Incomplete(f"{path}: is written and differs from PyTorch: {failure}")


def _check_fit(
    model: RCNN | Classifier, size: tuple[int, int] | None, images: Images | None
) -> None:
    """UserError for images that are larger than a fixed size."""
    if size is None or images is None or isinstance(model, Classifier):
        return
    if min(size) >= model.test_max_size:
        return
    for index, name in enumerate(images.names):
        height, width = model.prepare(images.read(index)).shape[-2:]
        if height > size[0] or width > size[1]:
            raise UserError(
                f"--size {size[0]} {size[1]}: {name} has {height} × {width} pixels at its test "
                "size; give --dynamic, a larger size, or images that fit"
            )


def _sides(model: RCNN | Classifier, size: tuple[int, int] | None) -> str:
    if size is not None:
        return f"{size[0]} × {size[1]} pixels"
    if isinstance(model, Classifier):
        return f"any number of crops of {model.test_size} pixels"
    return "any size"


def _load(spec: str, source: str | None, overrides: Sequence[str]) -> RCNN | Classifier:
    model = load_models([spec], source, overrides)
    if isinstance(model, CombinedDetector):
        raise UserError(
            f"{spec}: test.flip and test.scales combine several views, and an export has one; "
            "leave them out, with test.flip=false test.scales=null"
        )
    if not isinstance(model, RCNN | Classifier):
        raise UserError(f"{spec}: a localizer has no export; give a detector or a classifier")
    return model


def _fixed_size(model: RCNN | Classifier, wanted: tuple[int, int] | None) -> tuple[int, int]:
    if isinstance(model, Classifier):
        if wanted is not None:
            raise UserError(
                f"--size: a classifier sees crops of {model.test_size} pixels (data.test_size); "
                "leave it out"
            )
        return model.test_size, model.test_size
    divisor = model.size_divisibility
    if wanted is None:
        side = math.ceil(model.test_max_size / divisor) * divisor
        return side, side
    for value in wanted:
        if value % divisor:
            nearest = max(round(value / divisor), 1) * divisor
            raise UserError(
                f"--size: {value} is not a multiple of {divisor}, as the pyramid needs; "
                f"give {nearest}"
            )
    return wanted


def _check_packages(path: Path, form: Form, *, is_checked: bool) -> None:
    """UserError for what a format cannot be, and for packages that are not installed."""
    suffix = path.suffix
    if suffix not in OF_SUFFIX and is_checked:
        raise UserError(f"--check: nothing is known to run {suffix} files; leave it out")
    if suffix not in (".onnx", ".xml"):
        if form.precision != "fp32":
            raise UserError(
                f"--precision {form.precision}: is for .onnx and .xml; give one of these for OUT"
            )
        return
    packages = ["onnx", "onnxscript"]
    if suffix == ".xml":
        packages.append("openvino")
    if form.precision == "int8" or (is_checked and suffix == ".onnx"):
        packages.append("onnxruntime")
    for package in packages:
        import_extra(package, "export", str(path))


def _files(path: Path) -> list[Path]:
    """OUT, and OpenVINO's weights."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def _check_outputs(path: Path) -> None:
    """UserError where a file could not be written, or another's would be overwritten."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    check_folder(path.parent, "OUT")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file")
    if path.stem in MODULES:
        raise UserError(
            f"{path}: {path.stem}.py beside it would be imported in place of the module "
            f"{path.stem}; rename OUT"
        )
    beside, weights = path.with_suffix(".py"), path.with_suffix(".bin")
    if beside.exists() and not is_own_script(path):
        raise UserError(
            f"{beside}: would be overwritten, and was changed or is not of an export; rename it, "
            "or OUT"
        )
    if path.suffix == ".xml" and weights.exists() and not path.exists():
        raise UserError(f"{weights}: would be overwritten, and no .xml is beside it; rename OUT")


RUNTIMES = ("numpy", "PIL", "onnxruntime", "openvino", "torch", "torchvision")
MODULES = (sys.stdlib_module_names | set(RUNTIMES)) - {"test"}
"""What OUT.py or its runtime may import: Python looks beside a script first."""
