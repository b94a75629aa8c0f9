"""What a config could say of a data set: anchors, image size, how often rare classes are seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from resdet.data.detection.anchors import Anchors, fit_anchors
from resdet.data.detection.repeats import class_factors, image_factors
from resdet.data.detection.survey import TINY_SHARE, ObjectSurvey, View
from resdet.files.scale import LEAST_SIDE

POOR, GOOD = 0.3, 0.5
"""IoU with the best anchor below which an object is hardly, or not well, proposed."""

GAIN = 0.05
"""Share of the objects that other anchors have to fit better, to be suggested."""

ENLARGED, PLENTY = 1.5, 32.0
"""Images that are enlarged by this or more, although 95 % of their objects are still larger than
`PLENTY` pixels at their own size, cost time without need."""

MOST_ENLARGED = 3.0
"""Images are not suggested to be enlarged more."""

REPEATED = 4.0
"""How many times an image of the rarest class may be seen per epoch."""

REPEAT_KEY = "data.repeat_threshold"

MANY_TO_REPEAT = 10
"""Classes with fewer images would be overfitted."""


@dataclass(frozen=True)
class Suggestion:
    """A key of the config, and a value that fits the data better than the present one."""

    keys: dict[str, str]
    """Values in YAML by dotted key."""
    reason: str

    def __str__(self) -> str:
        values = " ".join(f"{key}={value}" for key, value in self.keys.items())
        return f"{values}: {self.reason}"


def suggest(objects: ObjectSurvey, *, repeat_threshold: float | None) -> list[Suggestion]:
    """What would fit the training objects better than what the config has."""
    if not len(objects.rows):
        return []
    found = [_image_size(objects), _anchors(objects)]
    if repeat_threshold is None:
        found.append(_repeats(objects))
    return [suggestion for suggestion in found if suggestion is not None]


def _anchors(objects: ObjectSurvey) -> Suggestion | None:
    """k-means centers of the objects' sizes, and of their shapes too where that helps as much."""
    old = objects.view.anchors
    chosen = objects.boxes[objects.looked_at]
    whole = fit_anchors(chosen[(chosen[:, 2:] > chosen[:, :2]).all(axis=1)], old)
    poor = float((objects.fits < GOOD).mean())
    best: tuple[float, Anchors, bool] | None = None
    for with_ratios in (False, True):
        new = whole if with_ratios else Anchors(whole.sizes, old.ratios, old.strides)
        left = float((objects.overlaps(new) < GOOD).mean())
        if left <= (poor if best is None else best[0]) - GAIN:
            best = left, new, with_ratios
    if best is None:
        return None
    left, new, with_ratios = best
    flat = [level[0] if len(level) == 1 else list(level) for level in new.sizes]
    keys = {"model.rpn.anchor_sizes": _yaml(flat)}
    if with_ratios:
        keys["model.rpn.aspect_ratios"] = _yaml(list(new.ratios))
    return Suggestion(
        keys,
        f"{left:.0%} of the objects have an IoU below {GOOD:g} with every anchor, instead of "
        f"{poor:.0%} (k-means of the sizes{' and shapes' if with_ratios else ''} at the training "
        "size)",
    )


def _yaml(values: Sequence[float | Sequence[float]]) -> str:
    """A list of numbers and lists, whole numbers without a point."""
    texts = [_yaml(value) if isinstance(value, Sequence) else f"{value:g}" for value in values]
    return f"[{','.join(texts)}]"


def _image_size(objects: ObjectSurvey) -> Suggestion | None:
    """Larger where objects vanish, smaller where they are enlarged without need."""
    view = objects.view
    scale = float(np.median(objects.scales))
    shortest = objects.seen_sides.min(axis=1)
    low = float(np.quantile(shortest, TINY_SHARE))
    if low < LEAST_SIDE:
        factor = min(LEAST_SIDE / max(low, 1e-3), MOST_ENLARGED / max(scale, 1e-3))
        if factor < 1.1:
            return None
        lost = float((shortest * factor < LEAST_SIDE).mean())
        return Suggestion(
            _sizes(view, factor),
            f"{float(objects.is_tiny.mean()):.1%} of the objects are less than {LEAST_SIDE:g} "
            f"pixels wide or high at the present size, and {lost:.1%} would be; it takes "
            f"{factor**2:.1f} times the time and memory",
        )
    usual = float(np.quantile(objects.root_areas, 0.05)) / scale
    if scale >= ENLARGED and usual >= PLENTY:
        return Suggestion(
            _sizes(view, 1 / scale),
            f"images are enlarged {scale:.1f} times, and objects are large enough without; it "
            f"takes {1 / scale**2:.0%} of the time and memory",
        )
    return None


def _sizes(view: View, factor: float) -> dict[str, str]:
    """Keys for images of `factor` times the size, in multiples of 32 pixels."""
    sides = (view.short_edge * factor, view.max_size * factor)
    short, long = (max(32, 32 * math.ceil(side / 32 - 0.25)) for side in sides)
    at_test = {"data.test_resize.short_edge": f"{short}", "data.test_resize.max_size": f"{long}"}
    if view.is_square:
        return {"data.augment.resize.lsj_size": f"{long}", **at_test}
    resize = {"short_edges": f"[{short}]", "max_size": f"{long}"}
    return {f"data.augment.resize.{key}": value for key, value in resize.items()} | at_test


def _repeats(objects: ObjectSurvey) -> Suggestion | None:
    """A threshold by which the rarest class is seen up to `REPEATED` times as often."""
    images = objects.images_per_class
    present = images >= MANY_TO_REPEAT
    if present.sum() < 2:
        return None
    shares = images[present] / objects.num_used
    threshold = min(float(np.median(shares)), REPEATED**2 * float(shares.min()), 1.0)
    threshold = float(f"{threshold:.2g}")
    factors, total = repeat_effect(objects, threshold)
    rarest = int(np.argmax(factors * present))
    if factors[rarest] < 1.5:
        return None
    name = objects.table.class_names[rarest]
    return Suggestion(
        {REPEAT_KEY: f"{threshold:g}"},
        f"images of the class {name!r}, which is in {shares.min():.2%} of them, would be seen "
        f"{factors[rarest]:.1f} times as often; an epoch has {total:.2f} times the samples",
    )


def repeat_effect(objects: ObjectSurvey, threshold: float) -> tuple[np.ndarray, float]:
    """(K,) how often images of each class are repeated, and the length of an epoch in images, by
    repeat-factor sampling."""
    factors = class_factors(
        objects.images,
        objects.labels,
        num_images=objects.num_used,
        num_classes=len(objects.objects_per_class),
        threshold=threshold,
    )
    by_image = image_factors(objects.images, objects.labels, factors, objects.num_images)
    return factors, 1 + float((by_image - 1).sum()) / objects.num_used
