"""Weights as they were read, by resdet's names, whatever their origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor


@dataclass
class LoadedWeights:
    """The tensors of one source and what is known of their origin."""

    state: dict[str, Tensor]
    """Names and tensors on the CPU; averaged (EMA) weights where the checkpoint keeps them."""
    kind: Literal["detector", "classifier", "backbone"]
    config: dict[str, Any] | None
    """The plain config of the network; None for files that don't tell it. Of a backbone alone it
    may be just a section `model`."""
    source: str
    """The file or spec, for messages."""
    class_names: list[str] = field(default_factory=list)
    """Class names by label; empty where unknown."""
    category_ids: list[int] = field(default_factory=list)
    """Original category ids by label; empty where unknown."""
    is_guessed: bool = False
    """The network was told by names of tensors that other toolkits use too: what no tensor tells,
    as `Reading` and the pixels' mean, is then likely and no more."""
    is_imported: bool = True
    """The weights are another toolkit's, whose numbers are those of fp32; False of resdet's own
    runs."""
