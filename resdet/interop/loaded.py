"""Weights as they were read, under resdet's names, whatever their origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict
from resdet.errors import UserError


@dataclass
class LoadedWeights:
    """The tensors of one source and what is known of their origin."""

    state: dict[str, Tensor]
    """Names and tensors on the CPU; averaged (EMA) weights if the checkpoint has them."""
    kind: Literal["detector", "classifier", "backbone"]
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
