"""What a validation of either task returns, in every process."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.evaluation import Result


@dataclass
class Validation:
    """One pass over data.val."""

    result: Result
    losses: dict[str, float]
    """Mean over the images, by name; empty where not computed."""
    seconds: float
    draw: Callable[[Path], object] | None = None
    """Draws some images with their predictions into a file; in the main process alone."""
    broken: dict[int, str] = field(default_factory=dict)
    """Why images were left out of both, by their positions in the data set."""

    @property
    def best(self) -> tuple[str, float] | None:
        """Name and value that best.pt is chosen by; None without a value."""
        best = self.result.best
        return best if best is not None and math.isfinite(best[1]) else None

    @property
    def loss(self) -> float | None:
        """Sum of the losses; None where not computed."""
        return sum(self.losses.values()) if self.losses else None

    def line(self) -> dict[str, Any]:
        """Metrics and losses for log.jsonl."""
        return {
            "eval": self.result.summary,
            "val_loss": self.loss,
            "val_losses": self.losses,
            "eval_s": round(self.seconds, 2),
        }

    def text(self) -> str:
        """The same for a person."""
        return self.result.words + ("" if self.loss is None else f"; val loss {self.loss:.4f}")


def joined(parts: Iterable[Mapping[int, str]]) -> dict[int, str]:
    """The broken images of all processes, by position."""
    return dict(sorted(item for part in parts for item in part.items()))


def share(validation: Validation | None, processes: Processes) -> Validation:
    """The main process's validation in every process, without what only files are made of."""
    light = validation
    if validation is not None and processes.world_size > 1:
        result = replace(
            validation.result, per_class=[], curves={}, details=None, truth=None, detections=None
        )
        light = replace(validation, result=result, draw=None)
    shared: Validation = distributed.broadcast(light, processes)
    return shared if validation is None else validation
