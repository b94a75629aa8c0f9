"""Drawings of images that may be too large to be drawn at their size."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from resdet.files.rle import encode_bitmap
from resdet.files.windows import Windows, overview
from resdet.structures import Detections
from resdet.viz.draw import draw, draw_caption, draw_objects, grid, shrink

DRAWN_PIXELS = 1 << 25
"""Larger images are shrunk to so many pixels before they are drawn, which takes some 15 bytes for
each of these."""


def draw_windows(image: Windows, detections: Detections) -> Image.Image:
    """As `draw`, of an image that is read by windows; shrunk to `DRAWN_PIXELS` if it has more."""
    pixels = overview(image, DRAWN_PIXELS)
    return draw(pixels, shrunk(detections, (pixels.shape[0], pixels.shape[1])))


def draw_beside(
    image: Windows,
    truth: Detections,
    detections: Detections,
    *,
    score_thresh: float,
    max_side: int,
) -> Image.Image:
    """The ground truth, and beside it the detections that score above `score_thresh`, 0..1: each
    with a title and at most `max_side` pixels long."""
    pixels = overview(image, DRAWN_PIXELS)
    size = pixels.shape[0], pixels.shape[1]
    found = detections[detections.scores > score_thresh]
    title = f"predictions, score above {score_thresh:g}" if score_thresh > 0 else "predictions"
    left = shrink(draw_objects(pixels, shrunk(truth, size)), max_side)
    right = shrink(draw(pixels, shrunk(found, size)), max_side)
    titled = [(left, "ground truth"), (right, title)]
    return grid([draw_caption(np.asarray(each), words) for each, words in titled], columns=2)


def shrunk(detections: Detections, size: tuple[int, int]) -> Detections:
    """The detections in a smaller copy of their image, of (height, width) `size`; masks keep the
    pixels of which at least half is covered, and at least one."""
    if size == detections.image_size:
        return detections
    down, across = (new / old for new, old in zip(size, detections.image_size, strict=True))
    factors = detections.boxes.new_tensor([across, down, across, down])
    small = replace(
        detections,
        boxes=detections.boxes * factors,
        image_size=size,
        mask_probs=None,
        rles=None,
        _pasted=None,
    )
    if not detections.has_masks:
        return small
    small.rles = []
    for (x1, y1, x2, y2), mask in detections.mask_windows():
        left, top = int(x1 * across), int(y1 * down)
        width, height = (max(round(side), 1) for side in ((x2 - x1) * across, (y2 - y1) * down))
        bitmap = np.zeros((0, 0), np.uint8)
        if mask.numel():
            covered = mask.numpy().view(np.uint8) * np.uint8(255)
            bitmap = np.asarray(cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA))
            bitmap = (bitmap >= min(128, bitmap.max())).astype(np.uint8)
        code = encode_bitmap(bitmap, top, left, size)
        small.rles.append({"size": list(size), "counts": code.decode("ascii")})
    return small
