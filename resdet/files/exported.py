"""Exported models: the JSON file beside each, which tells what it takes and what it gives.

Exported files are data: nothing in them or beside them is run.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from resdet.errors import UserError
from resdet.files.findings import DataError
from resdet.files.json import read_json
from resdet.files.writing import write_json

SUFFIXES = (".onnx", ".xml", ".pt2")
"""ONNX, OpenVINO IR (whose weights are in a .bin beside it), torch.export."""


Precision = Literal["fp32", "fp16", "int8"]


def is_exported(path: str | Path) -> bool:
    """Whether this is the name of an exported model."""
    return Path(path).suffix.lower() in SUFFIXES


def needs_run(path: str | Path) -> str:
    """What is wrong where an exported model is given for what only the run can do."""
    return (
        f"{path}: is an exported model, which predicts and is evaluated alone; give the run or the "
        "checkpoint that it was exported from"
    )


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Resize(_Part):
    """How a detector's images are resized, see `resdet.files.pixels.resize_image`."""

    short_edge: int = Field(ge=1)
    """In pixels, as below."""
    max_size: int = Field(ge=1)
    method: Literal["pillow", "float"]


class Crop(_Part):
    """The centre crop of a classifier."""

    short_edge: int = Field(ge=1)
    """Short side of the resized image in pixels."""
    size: int = Field(ge=1)
    """Side of the crop in pixels."""
    interpolation: Literal["bilinear", "bicubic"]


class Description(_Part):
    """What an exported model takes and gives: the content of OUT.json.

    A detector takes `images` (N, 3, H, W) uint8 RGB, padded right and bottom with 0 (float32 where
    `test_resize.method` is float), and `sizes` (N, 2) int64, their true (height, width). It gives
    `boxes` (N, D, 4) float32 xyxy in pixels of its input, `scores` (N, D) float32, `labels` (N, D)
    int64, `counts` (N,) int64, how many rows of an image are detections, and with a mask head
    `masks` (N, D, m, m) float32 probabilities. With `pasted` it also takes `original_sizes` (N, 2)
    int64, boxes are in pixels of the originals, and masks are (N, D, H0, W0) uint8.

    A classifier takes `images` (N, 3, S, S) uint8 RGB and gives `probabilities` (N, K) float32.
    """

    format: Literal["resdet-export"] = "resdet-export"
    version: Literal[1] = 1
    task: Literal["detection", "classification"]
    class_names: list[str] = Field(min_length=1)
    """K names by label."""
    readable_names: list[str] = []
    """K names for people, where they are others: ImageNet's words."""
    category_ids: list[int] = []
    """K ids of the annotation file, of a detector."""
    test_resize: Resize | None = None
    tile_scale: float = Field(default=1.0, gt=0)
    """By what factor the tiles of large images are resized."""
    crop: Crop | None = None
    size_divisibility: int = Field(default=1, ge=1)
    """What the padded sides are multiples of."""
    dynamic: bool
    """Whether number and size of the images are free."""
    height: int | None = Field(default=None, ge=1)
    """The fixed sides in pixels and number of images; None where they are free."""
    width: int | None = Field(default=None, ge=1)
    batch: int | None = Field(default=None, ge=1)
    precision: Precision = "fp32"
    mask_paste: Literal["continuous", "rounded"] | None = None
    """How masks go into the image, see `resdet.ops.masks.paste_masks`; None without masks."""
    mask_size: int | None = Field(default=None, ge=1)
    """m of the masks; None without masks."""
    detections_per_image: int | None = Field(default=None, ge=1)
    score_thresh: float | None = Field(default=None, ge=0, le=1)
    """Detections score above it."""
    pasted: bool = False
    source: str
    """The run or weights that were exported."""
    resdet: str
    """Versions, as below."""
    torch: str
    config: dict[str, Any] | None = None
    """The run's config, whose data.val it is evaluated on; may be removed."""
    files: dict[str, str] = {}
    """SHA-256 of what it describes, by suffix: .onnx, .xml and its .bin, .pt2. Models of one name
    share their description; the one that was exported last comes first."""
    script: str = ""
    """SHA-256 of OUT.py as it was written."""

    @model_validator(mode="after")
    def _whole(self) -> Description:
        needed = ["crop"]
        if self.task == "detection":
            needed = ["test_resize", "detections_per_image", "score_thresh"]
            if len(self.category_ids) != len(self.class_names):
                raise ValueError("category_ids and class_names differ in length")
        absent = [name for name in needed if getattr(self, name) is None]
        if absent:
            raise ValueError(f"a model for {self.task} needs {', '.join(absent)}")
        if (self.mask_paste is None) != (self.mask_size is None):
            raise ValueError("mask_paste and mask_size belong together")
        return self


def description_path(model: str | Path) -> Path:
    """OUT.json of the exported model OUT.onnx."""
    return Path(model).with_suffix(".json")


def write_description(description: Description, model: Path) -> Description:
    """Write OUT.json beside the model's files, which are whole; returns it with their SHA-256."""
    others = described_beside(description, model)
    own = {suffix: sha256(model.with_suffix(suffix)) for suffix in _suffixes(model)}
    whole = description.model_copy(update={"files": own | others})
    write_json(description_path(model), whole.model_dump(mode="json"))
    return whole


def described_beside(description: Description, model: Path) -> dict[str, str]:
    """SHA-256 by suffix of other models that the OUT.json of `model` describes, and that are there.
    UserError where it describes them otherwise than `description`, and where it is not of an
    export."""
    path, before = description_path(model), description_of(model)
    files = before.get("files")
    others = {
        suffix: str(digest)
        for suffix, digest in (files if isinstance(files, dict) else {}).items()
        if suffix not in _suffixes(model) and model.with_suffix(suffix).is_file()
    }
    values = description.model_dump(mode="json")
    differing = [
        key for key in values if key not in VARIES and values[key] != before.get(key, values[key])
    ]
    if others and differing:
        names = " and ".join(model.with_suffix(suffix).name for suffix in others)
        raise UserError(
            f"{path}: describes {names}, which differs in {', '.join(differing)}; rename OUT, or "
            f"remove {names}"
        )
    return others


def description_of(model: Path) -> dict[str, Any]:
    """The values of OUT.json as it is; empty where there is none, UserError where it is another's
    file."""
    path = description_path(model)
    if not path.exists():
        return {}
    values = read_json(path, "description of an export")
    if not isinstance(values, dict) or values.get("format") != "resdet-export":
        raise UserError(f"{path}: would be overwritten, and is not of an export; rename OUT")
    return values


VARIES = ("files", "script", "resdet", "torch")
"""Keys in which models that share a description may differ."""


def read_description(model: Path) -> Description:
    """The description of an exported model; UserError where it is not there, does not belong to
    the model's files, or these are not whole."""
    if not model.is_file():
        what = "is a folder" if model.is_dir() else "no such file"
        raise UserError(f"{model}: {what}; give an exported model, a file of {_listed()}")
    path = description_path(model)
    if not path.is_file():
        raise UserError(
            f"{model}: {path.name} is not beside it, which has its class names and sizes; copy it "
            "there from where the model was exported, or export the model again"
        )
    values = read_json(path, "class names and sizes of an exported model")
    if not isinstance(values, dict) or values.get("format") != "resdet-export":
        raise DataError(
            f"{path}: is not the description of an exported model; copy the JSON file that was "
            f"written beside {model.name}"
        )
    if values.get("version") != 1:
        raise DataError(
            f"{path}: its version is {values.get('version')!r:.40}, and this resdet reads version "
            "1; update resdet, or export the model again"
        )
    try:
        description = Description.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its keys"
        reason = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path}: {where}: {reason}; export the model again") from None
    _check_files(model, path, description)
    return description


def _check_files(model: Path, path: Path, description: Description) -> None:
    """UserError where the model's files are not those that were described."""
    for suffix in _suffixes(model):
        file, digest = model.with_suffix(suffix), description.files.get(suffix)
        if digest is None:
            known = ", ".join(description.files) or "no file"
            raise UserError(
                f"{path}: does not describe {file.name} (its files: {known}); copy the one that "
                "was written with it, or export the model again"
            )
        if not file.is_file():
            raise UserError(
                f"{model}: {file.name} is not beside it, which has its weights; copy it there from "
                "where the model was exported"
            )
        if sha256(file) != digest:
            raise UserError(
                f"{file}: is not the file that {path.name} describes: its SHA-256 differs; it was "
                "replaced or is damaged, so copy both again or export the model again"
            )


def _suffixes(model: Path) -> list[str]:
    """Of the model's files, which have one name: OpenVINO's weights are in a second one."""
    return [model.suffix, ".bin"] if model.suffix.lower() == ".xml" else [model.suffix]


def sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listed() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
