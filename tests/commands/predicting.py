"""The predict command as tests call it, and its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resdet.commands.predict import predict_command
from resdet.inference.predicting import Options


def run(
    model: Path,
    inputs: Sequence[Any],
    out: Path,
    *,
    overrides: Sequence[str] = (),
    ids_from: Path | None = None,
    precision: str | None = None,
    **options: Any,
) -> int:
    """Its exit code; `options` are those of `Options`."""
    return predict_command(
        run=model,
        inputs=inputs,
        out=out,
        device="cpu",
        overrides=overrides,
        ids_from=ids_from,
        precision=precision,
        options=Options(**options),
    )


def read(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records, and the entries of images."""
    names = ("detections.json", "images.json")
    detections, images = (json.loads((out / name).read_text("utf-8")) for name in names)
    return detections, images
