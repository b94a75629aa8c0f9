"""What `resdet export` runs: writes a trained model for another runtime and checks it."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.config.find import own_path
from resdet.errors import Incomplete, UserError
from resdet.export import EXPORTS
from resdet.export.check import check as check_export
from resdet.export.description import SCRIPT, describe, write_beside
from resdet.export.images import images_to_calibrate, images_to_check
from resdet.export.network import Network
from resdet.export.onnx import OPSET
from resdet.export.quantise import write_lowered
from resdet.files.exported import Precision, description_path
from resdet.files.json import read_json
from resdet.files.writing import check_folder
from resdet.inference.combined import CombinedDetector
from resdet.inference.loading import load_models
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
    write = EXPORTS.get(path.suffix.lower())
    if write is None:
        raise UserError(f"{out}: its extension selects the format: {', '.join(EXPORTS)}; rename it")
    _check_outputs(path)
    model = _load(spec, source, overrides)
    size = None if form.dynamic else _fixed_size(model, form.size)
    _check_form(model, form, path)
    # read before the export, which takes a while
    images, calibration = None, None
    if form.precision == "int8":
        calibration = images_to_calibrate(model, form.calibrate, count=form.calibrate_images)
    if check is not None:
        images = images_to_check(model, check.images, check.annotations, count=check.count)
    network = Network(model, size, form.pasted)
    description = describe(
        model,
        source=spec,
        dynamic=form.dynamic,
        height=size[0] if size else None,
        width=size[1] if size else None,
        batch=None if form.dynamic else 1,
        precision=form.precision,
        pasted=form.pasted,
        opset=OPSET if path.suffix.lower() in (".onnx", ".xml") else None,
    )
    if form.precision == "fp32":
        write(network, path)
    else:
        write_lowered(
            network, path, form.precision, description=description, calibration=calibration
        )
    write_beside(path, description)
    mb = sum(file.stat().st_size for file in _files(path) if file.is_file()) / 2**20
    sides = "any size" if size is None else f"{size[0]} × {size[1]} pixels"
    log.info("%s: %s, %s, %.0f MB; %s and %s are beside it", path, form.precision, sides, mb,
             description_path(path).name, path.with_suffix(".py").name)  # fmt: skip
    if images is not None and (failure := check_export(model, path, images).failure):
        raise Incomplete(f"{path}: is written and differs from PyTorch: {failure}")


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


def _check_form(model: RCNN | Classifier, form: Form, path: Path) -> None:
    if form.pasted and (isinstance(model, Classifier) or not model.has_masks):
        raise UserError("--paste: the model has no masks; leave it out")
    if form.precision != "fp32" and path.suffix.lower() not in (".onnx", ".xml"):
        raise UserError(
            f"--precision {form.precision}: is for .onnx and .xml; give one of these for OUT"
        )


def _files(path: Path) -> list[Path]:
    """OUT, and OpenVINO's weights."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def _check_outputs(path: Path) -> None:
    """UserError where a file could not be written, or another's would be overwritten."""
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    check_folder(path.parent, "OUT")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a file")
    beside = path.with_suffix(".py")
    first = SCRIPT.read_text(encoding="utf-8").partition("\n")[0]
    if beside.exists() and first not in beside.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"{beside}: would be overwritten, and is not of an export; rename OUT")
    description = description_path(path)
    if description.exists():
        values = read_json(description, "description of an export")
        if not isinstance(values, dict) or values.get("format") != "resdet-export":
            raise UserError(
                f"{description}: would be overwritten, and is not of an export; rename OUT"
            )
        other = path.with_name(Path(str(values.get("file"))).name)
        if other.suffix.lower() != path.suffix.lower() and other.is_file():
            raise UserError(
                f"{description}: would be overwritten, and belongs to {other.name}; rename OUT"
            )
