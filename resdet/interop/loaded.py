"""Weights as they were read, under resdet's names, and what must agree between them and a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict
from resdet.errors import UserError, first_few
from resdet.files.scale import Seen

BACKBONE_PREFIX = "backbone."
HEAD_PREFIX = "head."
CONVENTIONS: dict[str, Any] = yaml.safe_load(
    Path(__file__).with_name("conventions.yaml").read_text(encoding="utf-8")
)
"""What changes a network's numbers without showing in a tensor's shape; see the file."""


@dataclass
class LoadedWeights:
    """The tensors of one source and what is known of their origin."""

    state: dict[str, Tensor]
    """Names and tensors on the CPU; averaged (EMA) weights if the checkpoint has them."""
    kind: Literal["detector", "classifier", "localizer", "backbone"]
    config: dict[str, Any] | None
    """The plain config of the network; None if the file does not identify it. For a backbone alone
    it may be just a section `model`."""
    source: str
    """The file or spec, for messages."""
    class_names: list[str] = field(default_factory=list)
    """Class names by label; empty if unknown."""
    category_ids: list[int] = field(default_factory=list)
    """Original category ids by label; empty if unknown."""
    is_guessed: bool = False
    """The network was identified by tensor names that other toolkits use too. What no tensor shows,
    such as `Reading` and the pixel mean, is then only likely."""
    is_imported: bool = True
    """The weights come from another toolkit, whose numbers are those of fp32; False for resdet's
    own runs."""

    prefix: str = ""
    """What was before the names in the file, and is not in `state`."""

    seen: Seen | None = None
    """How large a detector's objects were in training, of resdet's own runs."""

    def detection_config(self) -> DetectionConfig:
        """The config of a detector; UserError for other weights and for unknown configs."""
        if self.kind != "detector" or self.config is None:
            raise UserError(f"{self.source} is not a detector with a config; give another file")
        config = config_from_dict(self.config, self.source)
        assert isinstance(config, DetectionConfig), "a detector has a detection config"
        return config


def numbered_classes(count: int) -> list[str]:
    """Names for classes that nobody named: class 1, class 2, …"""
    return [f"class {number}" for number in range(1, count + 1)]


def are_numbered(names: Sequence[str]) -> bool:
    """Whether these are `numbered_classes`, of a file without class names."""
    return list(names) == numbered_classes(len(names))


def without_names(names: Sequence[str], theirs: Sequence[str]) -> str:
    """What is wrong where a model's classes are numbered and those of the data have names."""
    return (
        f"the model's file has no names for its {len(names)} classes, and the data has "
        f"{len(theirs)} ({first_few(theirs, 4)}); give data.classes=[NAME,…], the {len(names)} "
        "names in the order of the model's labels"
    )


@dataclass(frozen=True)
class Reading:
    """How a network uses its tensors and its input, and what must agree with its weights."""

    stride_in_1x1: bool = False
    transform_input: bool = False
    pad: str = "after"
    channel_order: str = "rgb"

    @staticmethod
    def of(model: Mapping[str, Any]) -> Reading:
        """Of a config's section `model`, as plain values."""
        return Reading(
            bool(value_at(model, "backbone.stride_in_1x1")),
            bool(value_at(model, "backbone.options.transform_input")),
            value_at(model, "backbone.pad") or "after",
            model.get("channel_order", "rgb"),
        )


def check_reading(there: Reading | None, here: Reading | None, source: str) -> None:
    """UserError if the weights of `source` and the model disagree; None is unknown."""
    if here is None or there is None:
        return
    for name, key in CONVENTIONS["must_agree"].items():
        theirs, ours = (str(getattr(reading, name)).lower() for reading in (there, here))
        if theirs != ours:
            raise UserError(
                f"{source} was trained with {key} {theirs}, but here it is {ours}; "
                f"set {key}={theirs}"
            )


def other_conventions(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A log line that lists the conventions in which two sections `model` of detectors differ."""
    differing = []
    for key, default in CONVENTIONS["may_differ"].items():
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
