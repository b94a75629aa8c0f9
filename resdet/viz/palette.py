"""Colours that colour-blind readers can distinguish too."""

import numpy as np

# Okabe & Ito (2008) without black and grey, then colours of Tol (2021, "bright" and "muted") that
# differ from those in lightness and hue, and a blue found by the test of dichromacy.
COLORS = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (213, 94, 0),
        (204, 121, 167),
        (0, 114, 178),
        (170, 51, 119),
        (153, 221, 255),
        (187, 204, 51),
        (136, 34, 85),
        (255, 170, 187),
        (68, 187, 153),
        (80, 60, 245),
    ],
    dtype=np.uint8,
)
"""(14, 3) RGB."""

MOST_COMPARED = 10_000
"""Boxes whose neighbours are looked for, which takes time by the square of their number."""


def by_class(labels: np.ndarray) -> np.ndarray:
    """(N, 3) uint8 RGB for labels (N,): the same class always has the same colour."""
    return COLORS[labels % len(COLORS)]


def by_instance(boxes: np.ndarray, margin: float) -> np.ndarray:
    """(N, 3) uint8 RGB for boxes (N, 4) xyxy: neighbours within `margin` pixels differ if possible.

    Greedy colouring: each box takes the colour that is rarest among its coloured neighbours, and
    among equally rare ones the rarest in the image. Of more than `MOST_COMPARED` boxes each takes
    the next colour.
    """
    if len(boxes) > MOST_COMPARED:
        return by_class(np.arange(len(boxes)))
    chosen = np.zeros(len(boxes), dtype=np.int64)
    used = np.zeros(len(COLORS), dtype=np.int64)
    for i, box in enumerate(boxes):
        before = boxes[:i]
        near = (before[:, :2] <= box[2:] + margin).all(1)
        near &= (before[:, 2:] >= box[:2] - margin).all(1)
        around = np.bincount(chosen[:i][near], minlength=len(COLORS))
        chosen[i] = np.lexsort((used, around))[0]
        used[chosen[i]] += 1
    return COLORS[chosen]


def text_color(background: np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever is more legible on the RGB `background` (3,)."""
    luminance = float(np.dot(background, (0.299, 0.587, 0.114)))
    return (0, 0, 0) if luminance > 130 else (255, 255, 255)
