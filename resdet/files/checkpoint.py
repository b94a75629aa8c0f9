"""Checkpoint files, the one place that knows their format: plain dicts of tensors and values.

Keys: format, kind, resdet_version, torch_version, config (plain), class_names, category_ids, step,
model (a state dict), ema (averages of some of it, or None). A run adds what resuming needs; see
`resdet.engine.setup.Training.state`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.files.tensor_files import read_tensor_file
from resdet.files.writing import open_atomic
from resdet.version import __version__

FORMAT = 1
PREVIOUS = "previous.pt"
"""The checkpoint before last.pt, in the folder of a run that is not done."""
MODEL_KINDS = ("detector", "classifier", "localizer")
"""What a run trains."""
WEIGHT_KINDS = (*MODEL_KINDS, "backbone")
"""What a checkpoint may hold."""
KEYS = ("config", "class_names", "category_ids", "step", "model")
SECTIONS = ("model", "model.backbone", "model.backbone.options", "data")
"""Of the config: what other parts of the package read before the config is parsed."""
DETECTOR_SECTIONS = (*SECTIONS, "data.test_resize")
"""The same for detectors; the `data.test_resize` of others is a number of pixels."""


def contents(
    kind: str,
    config: dict[str, Any] | None,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    step: int,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """The checkpoint of a model after `step` updates; `kind` is one of WEIGHT_KINDS."""
    assert kind in WEIGHT_KINDS, kind
    return {
        "format": FORMAT,
        "kind": kind,
        "resdet_version": __version__,
        "torch_version": str(torch.__version__),
        "config": config,
        "class_names": list(class_names),
        "category_ids": list(category_ids),
        "step": step,
        "model": model,
        "ema": ema,
    }


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically, so that a kill at any moment leaves the old one or the new.

    WriteError where the disk refuses; the old file is then untouched.
    """
    with open_atomic(path, "wb") as file:
        torch.save(checkpoint, file)


def save_last(path: Path, checkpoint: dict[str, Any], *, is_final: bool) -> None:
    """As `save`; until the run is done, the checkpoint before stays beside it as previous.pt.

    It takes no more disk than writing does, as it goes before the next one is written. Where the
    file system has no hard links there is none.
    """
    previous = path.with_name(PREVIOUS)
    with contextlib.suppress(OSError):
        previous.unlink(missing_ok=True)
        if path.is_file() and not is_final:
            os.link(path, previous)
    save(path, checkpoint)


def load(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a run on the CPU, read without running any code inside it.

    UserError for a file that is absent, damaged, of another kind, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    values = read_tensor_file(path)
    if not is_checkpoint(values) or values["kind"] not in MODEL_KINDS:
        raise UserError(f"{path}: not a checkpoint of a resdet run")
    check(values, path)
    missing = [key for key in KEYS if key not in values]
    if missing:
        raise UserError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return values


def is_checkpoint(values: Mapping[str, Any]) -> bool:
    """Whether the content of a file is a checkpoint of resdet, damaged or not."""
    kind = values.get("kind")
    return isinstance(kind, str) and kind in WEIGHT_KINDS and "model" in values


def check(values: Mapping[str, Any], path: Path) -> None:
    """UserError for a newer format, and for a config, names or ids that are of another type."""
    version = values.get("format")
    if not isinstance(version, int) or version > FORMAT:
        raise UserError(
            f"{path}: has checkpoint format {version!r}, written by resdet "
            f"{values.get('resdet_version')}, and this resdet reads up to {FORMAT}; update resdet"
        )
    if (
        not isinstance(values.get("config"), dict | None)
        or not _is_plain(values.get("config"))
        or not all(isinstance(part, dict | None) for part in _sections(values))
        or not _is_list_of(str, values.get("class_names"))
        or not _is_list_of(int, values.get("category_ids"))
    ):
        raise UserError(
            f"{path}: damaged checkpoint: its config, class_names or category_ids have the wrong "
            "type; use another checkpoint"
        )


def _is_list_of(kind: type, value: Any) -> bool:
    """Whether this is a list of such values; there may be none at all."""
    return value is None or (
        isinstance(value, list | tuple) and all(isinstance(each, kind) for each in value)
    )


def _sections(values: Mapping[str, Any]) -> Iterator[Any]:
    """The parts of a checkpoint's config that are read before it is parsed."""
    for key in DETECTOR_SECTIONS if values.get("kind") == "detector" else SECTIONS:
        part = values.get("config")
        for name in key.split("."):
            part = part.get(name) if isinstance(part, dict) else None
        yield part


def _is_plain(value: Any) -> bool:
    """Whether this consists of what YAML has: no tensor in a config."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
