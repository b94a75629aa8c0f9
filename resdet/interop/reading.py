"""What no tensor's shape tells of a network, and must be as it was where its weights come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resdet.errors import UserError

# Of a detector's section `model`: what changes its numbers and no tensor's shape, and may differ
# where it is meant to; each with what null comes to.
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


@dataclass(frozen=True)
class Reading:
    """What a network makes of its tensors and of its input that no tensor's shape tells."""

    stride_in_1x1: bool = False
    transform_input: bool = False
    channel_order: str = "rgb"

    @staticmethod
    def of(model: Mapping[str, Any]) -> Reading:
        """Of a config's section `model`, as plain values."""
        section = model.get("backbone") or {}
        return Reading(
            bool(section.get("stride_in_1x1")),
            bool((section.get("options") or {}).get("transform_input")),
            model.get("channel_order", "rgb"),
        )


def check_reading(there: Reading | None, here: Reading | None, source: str) -> None:
    """UserError where the weights of `source` and the network read in another way; None is not
    known."""
    if here is None or there is None:
        return
    keys = {
        "stride_in_1x1": "model.backbone.stride_in_1x1",
        "transform_input": "model.backbone.options.transform_input",
        "channel_order": "model.channel_order",
    }
    for name, key in keys.items():
        values = [str(getattr(each, name)).lower() for each in (there, here)]
        if values[0] != values[1]:
            raise UserError(
                f"{source} was trained with {key} {values[0]}, and it is {values[1]} here; "
                f"set {key}={values[0]}"
            )


def other_conventions(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A log line that names the conventions in which two sections `model` of detectors differ."""
    differing = []
    for key, default in CONVENTIONS.items():
        found = [_get(section, key) for section in (there, here)]
        values = [default if value is None else value for value in found]
        if None not in values and values[0] != values[1]:
            there_text, here_text = (json.dumps(value) for value in values)
            differing.append(f"model.{key} {there_text} there, {here_text} here")
    return [f"trained by other conventions: {'; '.join(differing)}"] if differing else []


def _get(section: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key; None where it is not given."""
    found: Any = section
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
