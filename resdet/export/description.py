"""What is written beside an exported model: OUT.json, and OUT.py, which runs it without resdet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resdet.config.loading import config_to_dict
from resdet.files.exported import (
    Crop,
    Description,
    Precision,
    Resize,
    description_of,
    sha256,
    write_description,
)
from resdet.files.writing import write_bytes
from resdet.models.branches.mask import MaskHead
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.structures import readable_names
from resdet.version import __version__

SCRIPT = Path(__file__).with_name("script.py")
"""Copied as it is."""


def describe(
    model: RCNN | Classifier,
    *,
    source: str,
    dynamic: bool,
    height: int | None = None,
    width: int | None = None,
    batch: int | None = None,
    precision: Precision = "fp32",
    pasted: bool = False,
) -> Description:
    """What an export of the model takes and gives. `source` is the run or weights; `height`,
    `width` and `batch` are None where they are free, and a classifier has its own; the other fields
    are those of `Description`.
    """
    readable = readable_names(model.class_names)
    common: dict[str, Any] = {
        "class_names": model.class_names,
        "readable_names": readable if readable != model.class_names else [],
        "dynamic": dynamic,
        "height": height,
        "width": width,
        "batch": batch,
        "precision": precision,
        "source": source,
        "resdet": __version__,
        "torch": torch.__version__,
        "config": None if model.config is None else config_to_dict(model.config),
    }
    if isinstance(model, Classifier):
        common |= {"height": model.test_size, "width": model.test_size}
        crop = Crop(
            short_edge=model.test_resize, size=model.test_size, interpolation=model.interpolation
        )
        return Description(task="classification", crop=crop, **common)
    return Description(
        task="detection",
        category_ids=model.category_ids,
        test_resize=Resize(
            short_edge=model.test_short_edge,
            max_size=model.test_max_size,
            method=model.test_resize_method,  # type: ignore[arg-type]
        ),
        tile_scale=getattr(model, "tile_scale", None) or 1.0,
        size_divisibility=model.size_divisibility,
        mask_paste=model.mask_paste if model.has_masks else None,  # type: ignore[arg-type]
        mask_size=_mask_size(model),
        detections_per_image=model.roi_heads.detections_per_image,
        score_thresh=model.roi_heads.score_thresh,
        pasted=pasted,
        **common,
    )


def _mask_size(model: RCNN) -> int | None:
    """Cells per side of the masks; None without masks. res5 halves what is pooled (C4)."""
    if not model.has_masks:
        return None
    head = model.roi_heads.branches["mask_head"]
    assert isinstance(head, MaskHead), type(head)
    return head.pool_size * (2 if model.roi_heads.res5 is None else 1)


def write_beside(model: Path, description: Description) -> Description:
    """Write OUT.json and OUT.py beside the files of an exported model, which are whole; returns the
    description with their SHA-256."""
    description = description.model_copy(update={"script": sha256(SCRIPT)})
    whole = write_description(description, model)
    write_bytes(model.with_suffix(".py"), SCRIPT.read_bytes())
    return whole


def is_own_script(model: Path) -> bool:
    """Whether OUT.py, which is there, is as an export wrote it."""
    written = description_of(model).get("script")
    return sha256(model.with_suffix(".py")) in (written, sha256(SCRIPT))
