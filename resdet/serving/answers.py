"""Predictions as JSON and as pictures."""

import io
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from resdet.ops.outlines import simplify_ring, trace_rings
from resdet.structures import Classification, Detections
from resdet.viz.draw import draw

Masks = Literal["none", "rle", "polygons"]
SMOOTH = 1.0
"""Pixels that a polygon may be away from its mask."""
SMOOTH_SHARE = 0.03
"""The same as a share of the longer side of a small mask."""
FAST = 1
"""zlib's level for pictures: twice the bytes of the default at a fifth of its time."""


def as_json(
    prediction: Detections | Classification, size: tuple[int, int], masks: Masks = "none"
) -> dict[str, Any]:
    """The prediction of an image of `size` (height, width) as plain values.

    Boxes are xyxy in pixels. Masks are COCO's compressed RLE, or polygons: rings [[x, y], …] of
    which the even-odd rule makes the mask, holes included, to within a pixel.
    """
    answer: dict[str, Any] = {"width": int(size[1]), "height": int(size[0])}
    if isinstance(prediction, Classification):
        return {**answer, "classes": prediction.to_records()}
    return {**answer, "detections": list(_records(prediction, masks))}


def _records(detections: Detections, masks: Masks) -> Iterator[dict[str, Any]]:
    names, ids = detections.class_names, detections.category_ids
    outlines: Iterator[tuple[str, Any]] = iter(())
    if masks == "rle":
        outlines = (("rle", rle) for rle in detections.encoded_masks() or ())
    elif masks == "polygons":
        outlines = (
            ("polygons", _polygons(mask.numpy(), window[:2]))
            for window, mask in detections.mask_windows()
        )
    rows = zip(
        detections.boxes.double().tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    )
    for row, (box, score, label) in enumerate(rows):
        record = {
            "box": [round(side, 3) for side in box],
            "score": score,
            "label": label,
            "class_name": names[label] if names else f"class {label}",
            "category_id": ids[label] if ids else label + 1,
        }
        if (outline := next(outlines, None)) is not None:
            record[outline[0]] = outline[1]
        for name, values in detections.extra.items():
            if values.ndim <= 2:
                record.setdefault(name, values[row].tolist())
        yield record


def _polygons(mask: np.ndarray, start: tuple[int, int]) -> list[list[list[int]]]:
    """The rings of a mask (h, w) whose left top pixel is `start` (x, y)."""
    outer, holes = trace_rings(mask)
    distance = min(SMOOTH, SMOOTH_SHARE * max(mask.shape))
    rings = [simplify_ring(ring, distance) + np.array(start) for ring in (*outer, *holes)]
    return [ring.astype(int).tolist() for ring in rings]


def as_png(pixels: np.ndarray, prediction: Detections | Classification) -> bytes:
    """The prediction drawn on its image (H, W, 3) uint8 RGB."""
    file = io.BytesIO()
    draw(pixels, prediction).save(file, "PNG", compress_level=FAST)
    return file.getvalue()
