"""What changes a network's numbers without showing in a tensor's shape: it has to be the same for
the model as it was for the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resdet.errors import UserError

# Of a detector's section `model`: what changes its numbers and may differ on purpose, each with the
# value that null stands for.
CONVENTIONS = {
    "pixel_mean": None,
    "pixel_std": None,
    "backbone.norm_eps": 1e-5,
    "backbone.res5_dilation": 1,
    "rpn.anchor_sizes": None,
    "rpn.aspect_ratios": None,
    "rpn.round_anchors": None,
    "rpn.anchor_spacing": None,
    "roi.aligned": None,
    "roi.sampling_ratio": None,
    "roi.stages": None,
}
READING_KEYS = {
    "stride_in_1x1": "model.backbone.stride_in_1x1",
    "transform_input": "model.backbone.options.transform_input",
    "channel_order": "model.channel_order",
}


@dataclass(frozen=True)
class Reading:
    """How a network uses its tensors and its input, and what must agree with its weights."""

    stride_in_1x1: bool = False
    transform_input: bool = False
    channel_order: str = "rgb"

    @staticmethod
    def of(model: Mapping[str, Any]) -> Reading:
        """Of a config's section `model`, as plain values."""
        return Reading(
            bool(value_at(model, "backbone.stride_in_1x1")),
            bool(value_at(model, "backbone.options.transform_input")),
            model.get("channel_order", "rgb"),
        )


def check_reading(there: Reading | None, here: Reading | None, source: str) -> None:
    """UserError if the weights of `source` and the model disagree; None is unknown."""
    if here is None or there is None:
        return
    for name, key in READING_KEYS.items():
        theirs, ours = (str(getattr(reading, name)).lower() for reading in (there, here))
        if theirs != ours:
            raise UserError(
                f"{source} was trained with {key} {theirs}, and it is {ours} here; "
                f"set {key}={theirs}"
            )


def other_conventions(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A log line that lists the conventions in which two sections `model` of detectors differ."""
    differing = []
    for key, default in CONVENTIONS.items():
        given = [value_at(section, key) for section in (there, here)]
        values = [default if value is None else value for value in given]
        if None not in values and values[0] != values[1]:
            there_text, here_text = (json.dumps(value) for value in values)
            differing.append(f"model.{key} {there_text} there, {here_text} here")
    return [f"trained by other conventions: {'; '.join(differing)}"] if differing else []


def value_at(section: Any, key: str) -> Any:
    """The value at a dotted key of nested dicts; None if it is not given."""
    for name in key.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    return section
