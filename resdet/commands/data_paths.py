"""A config for data that are given by paths alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resdet.config.classification import ClassificationConfig
from resdet.config.find import is_file, own_path
from resdet.config.loading import (
    AnyConfig,
    config_from_dict,
    config_to_dict,
    load_any_config,
    load_config,
    override_config,
)
from resdet.data.classification.folder import has_folders
from resdet.data.detection.readers.recognize import recognize
from resdet.data.detection.readers.yolo import DESCRIPTIONS
from resdet.data.detection.readers.yolo_description import describe
from resdet.errors import UserError
from resdet.files.findings import DataError

BASE = "own_data"
"""The shipped config whose other keys count."""

TRAIN, VAL = ("train", "training"), ("val", "valid", "validation")
"""Names of the folders of a data set's parts."""

YAML = (".yaml", ".yml")


def config_of(paths: Sequence[str], overrides: Sequence[str] = ()) -> AnyConfig:
    """The config of one path, or of images and annotations, and those of validation.

    Args:
        paths: a config, a run folder, or data; two or four paths are data.
    Raises:
        UserError: it is something else.
    """
    if len(paths) == 1 and (config := _config_file(own_path(paths[0]))):
        return load_any_config(config, overrides)
    for path in paths:
        if not own_path(path).exists():
            raise UserError(f"{path}: no such file or folder; give a config, or paths of data")
    if len(paths) > 1:
        pairs = [
            {"images": images, "annotations": annotations}
            for images, annotations in zip(paths[::2], paths[1::2], strict=True)
        ]
        return _detection(pairs[0], pairs[1] if len(pairs) > 1 else None, overrides)
    return _of_data(own_path(paths[0]), overrides)


def _config_file(path: Path) -> str | None:
    """The config that a path is, or has as a run; None for data."""
    if is_file(path / "config.yaml") and is_file(path / "log.jsonl"):
        return str(path / "config.yaml")
    if is_file(path):
        is_config = path.suffix.lower() in YAML and not _is_description(path)
        return str(path) if is_config else None
    return None if path.exists() else str(path)  # an included config, or an error that names near


def _is_description(path: Path) -> bool:
    """Whether YAML is YOLO's data.yaml."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    keys = {line.partition(":")[0] for line in lines if not line.startswith((" ", "\t", "#"))}
    return bool(keys & {"names", "nc"}) and not keys & {"_base_", "model", "task", "data"}


def _of_data(path: Path, overrides: Sequence[str]) -> AnyConfig:
    """The config of one folder or file that holds images and annotations."""
    is_described = _has_annotations(path) and recognize(None, path) == "yolo"
    if is_described and (parts := _parts(path)):  # names the classes of all parts
        return _detection(str(path), str(path) if "val" in parts else None, overrides)
    if path.is_dir():
        train, val = (_named(path, names) for names in (TRAIN, VAL))
        if train is not None and _has_annotations(train):
            has_val = val is not None and _has_annotations(val)
            return _detection(str(train), str(val) if has_val else None, overrides)
        if (path / "images").is_dir() and (path / "annotations").is_dir():
            return _detection(*_coco_layout(path), overrides)
        if not _has_annotations(path) and has_folders(path):
            return _classification(path, train, val, overrides)
    return _detection(str(path), None, overrides)


def _coco_layout(path: Path) -> tuple[dict[str, str], dict[str, str] | None]:
    """Training and validation data of a folder with images/ and annotations/."""
    images, folder = path / "images", path / "annotations"
    files = sorted(folder.glob("*.json"))
    found: list[dict[str, str] | None] = []
    for names in (TRAIN, VAL):
        own = [file for file in files if any(name in file.stem.lower() for name in names)]
        pair = {"images": str(images), "annotations": str(own[0])} if len(own) == 1 else None
        found.append(pair)
    train, val = found
    if train is None:
        return {"images": str(images), "annotations": str(folder)}, None
    return train, val


def _named(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _has_annotations(path: Path) -> bool:
    try:
        return bool(recognize(path if path.is_dir() else None, path))
    except DataError:
        return False


def _parts(path: Path) -> set[str]:
    """The parts that YOLO's description lists, which the path is or holds; none without one."""
    if path.is_file() and path.suffix.lower() not in DESCRIPTIONS:
        return set()  # a list of the images of one part
    about = describe(path, lambda *_: None)
    is_own = about.file is not None and (path.is_file() or about.file.parent == path.absolute())
    return set(about.parts) if is_own else set()


def _detection(train: Any, val: Any, overrides: Sequence[str]) -> AnyConfig:
    values = config_to_dict(load_config(BASE))
    values["data"] |= {"train": train, "val": val}
    config = config_from_dict(values, "the paths")
    return override_config(config, overrides, "the paths")


def _classification(
    path: Path, train: Path | None, val: Path | None, overrides: Sequence[str]
) -> AnyConfig:
    data: dict[str, Any] = {"train": {"root": str(train or path)}, "val": None}
    if val is not None:
        data["val"] = {"root": str(val)}
    values = {"task": "classification", "data": data, "train": {"epochs": 1}}
    config = config_from_dict(values, "the paths")
    assert isinstance(config, ClassificationConfig)
    return override_config(config, overrides, "the paths")
