"""What a resumed run has to find in its data again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.split import Split


@dataclass(frozen=True)
class Resumed:
    """The choice of images that a run made at its start; an empty one for a new run."""

    split: Split | None = None
    """What it held out of data.train, where `data.split` says so."""
    left_out: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """By data.train and data.val: `hash_names` of the images that were missing or broken. They stay
    left out where they have been repaired since."""
