"""What ends a run before its last step: no better validation for a while, or no time left."""

import time
from dataclasses import dataclass, field
from typing import Any

from resdet.config.loading import AnyConfig


@dataclass
class Ending:
    """Early stopping and the time limit of a run, from its config and its past."""

    patience: int | None
    """Validations without a better metric after which the run ends; None never ends it so."""
    max_hours: float | None
    """Of training and validation, all resumes together; None sets no limit."""
    waited: int = 0
    """Validations with a metric since the best one."""
    seconds: float = 0.0
    """Of training, before this process."""
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, config: AnyConfig) -> "Ending":
        section = config.train
        patience = section.early_stop.patience if section.early_stop else None
        return cls(patience, section.max_hours)

    @property
    def is_stalled(self) -> bool:
        """Whether the run ends because validation has not improved."""
        return self.patience is not None and self.waited >= self.patience

    @property
    def hours(self) -> float:
        """Of training so far, in all processes that resumed each other."""
        return (self.seconds + time.monotonic() - self.started) / 3600

    @property
    def is_over_time(self) -> bool:
        return self.max_hours is not None and self.hours >= self.max_hours

    def start(self) -> None:
        """Training begins, or begins again: what came before it in this process is not counted."""
        self.started = time.monotonic()

    def see_metric(self, *, is_better: bool) -> None:
        """Note a validation with a metric."""
        self.waited = 0 if is_better else self.waited + 1

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"waited": self.waited, "seconds": self.hours * 3600}

    def restore(self, state: dict[str, Any]) -> None:
        self.waited, self.seconds = state["waited"], state["seconds"]
