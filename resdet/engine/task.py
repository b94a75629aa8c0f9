"""What the training loop asks of a task; detection.py and classification.py are the two."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resdet.config.loading import AnyConfig
from resdet.data.loader import TrainPlan
from resdet.engine.distributed import Processes
from resdet.engine.signals import StopRequest
from resdet.engine.validation import Validation
from resdet.hardware import Precision


class Model(Protocol):
    """What both networks have beside `nn.Module`."""

    class_names: list[str]

    def place(self, device: torch.device, dtype: torch.dtype = ...) -> None: ...

    def set_compiled(self, compiled: bool) -> None: ...


class Task(Protocol):
    """One kind of training: its data, its model, its losses and its metrics."""

    kind: str
    """Of its checkpoints: detector or classifier."""

    @property
    def config(self) -> AnyConfig: ...

    @property
    def has_validation(self) -> bool: ...

    @property
    def uses_workers(self) -> bool:
        """Whether its images are read by loader processes."""
        ...

    @property
    def model(self) -> nn.Module: ...

    def identity(self) -> dict[str, Any]:
        """class_names and category_ids of checkpoints, plain values."""
        ...

    def digest(self) -> str:
        """A fingerprint of the training data, so that a resumed run meets the same."""
        ...

    def make_plan(self) -> TrainPlan: ...

    def load_steps(
        self,
        plan: TrainPlan,
        *,
        start_step: int,
        end_step: int,
        processes: Processes,
        workers: int,
    ) -> Generator[list[Any]]:
        """This process's parts of each step from start_step to before end_step."""
        ...

    def losses(
        self, wrapped: nn.Module, part: Any, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named losses, to be summed, and other numbers to be logged; all still on the device."""
        ...

    def image_names(self, parts: Sequence[Any]) -> list[str]:
        """Each image of a step, for messages."""
        ...

    def take_problems(self) -> list[str]:
        """What was left out of the steps since the last call, in this process."""
        ...

    def settle(
        self, processes: Processes, precision: Precision, workers: int, total_steps: int
    ) -> None:
        """What is done to the model once, after the last update."""
        ...

    def validate(
        self,
        *,
        processes: Processes,
        precision: Precision,
        workers: int,
        stop: StopRequest | None,
    ) -> Validation | None:
        """Metrics on data.val; None where a stop was requested meanwhile."""
        ...

    def draw_batch(self, parts: Sequence[Any], step: int, path: Path) -> None:
        """The first images of update number `step`, counted from 0, as the model gets them."""
        ...

    def check_part(self) -> tuple[Any, int]:
        """A batch of one image, and its area in pixels, to estimate memory by."""
        ...

    def largest_area(self) -> int:
        """Pixels of the largest padded image that training can meet."""
        ...
