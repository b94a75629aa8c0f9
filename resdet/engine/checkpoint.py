"""Checkpoint files: plain dicts of tensors, numbers and strings, never half written."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from resdet.errors import UserError
from resdet.files.writing import open_atomic

FORMAT = 1
KINDS = ("detector", "classifier")
KEYS = ("config", "class_names", "category_ids", "step", "model")


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint atomically, so that a kill at any moment leaves the old one or the new.

    UserError where the disk refuses; the old file is then untouched.
    """
    try:
        # a process that was killed while it wrote left its temporary file
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        with open_atomic(path, "wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint could not be written ({error}); "
            "free some space or choose another --run-dir; the previous file is unchanged"
        ) from error


def load(path: str | Path) -> dict[str, Any]:
    """A checkpoint of a run on the CPU, read without running any code inside it.

    UserError for a file that is absent, damaged, of another kind, or of a newer format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than tensors and plain values, or is no checkpoint at all; "
            "only checkpoints that resdet wrote are read here"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: the file is damaged or cut short ({error}); use another checkpoint"
        ) from error
    if not isinstance(found, dict) or found.get("kind") not in KINDS:
        raise UserError(f"{path}: not a checkpoint of a resdet run")
    if found.get("format") != FORMAT:
        raise UserError(
            f"{path}: checkpoint format {found.get('format')}, and this resdet reads {FORMAT}; "
            f"it was written by resdet {found.get('resdet_version')}"
        )
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise UserError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return found
