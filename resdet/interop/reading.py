"""What no tensor's shape tells of a network, and must be as it was where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resdet.errors import UserError


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
