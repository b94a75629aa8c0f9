"""What the training loop asks of a task: detection.py, classification.py and localization.py."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from resdet.config.loading import AnyConfig, with_batch_size
from resdet.data.detection.split import Split
from resdet.data.loader import TrainPlan, train_loader
from resdet.engine.data_record import DataRecord
from resdet.engine.distributed import Processes
from resdet.engine.signals import StopRequest
from resdet.engine.validation import Validation
from resdet.files.findings import Finding
from resdet.files.scale import Seen
from resdet.hardware import Precision
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN
from resdet.models.region_classifier import AnyLocalizer


class Task(ABC):
    """One kind of training: its data, its model, its losses and its metrics.

    A step's images come in micro-batches, one for each forward pass of this process.
    """

    kind: str
    """Of its checkpoints: detector, classifier or localizer."""
    config: AnyConfig
    processes: Processes
    model: RCNN | Classifier | AnyLocalizer
    train_data: Any
    val_data: Any = None
    split: Split | None = None
    """Which images the run holds out of its training data, where `data.split` says so."""
    plan: TrainPlan
    """Which images make up each step."""
    collate: Callable[[list[Any]], Any]
    """Samples to a micro-batch."""
    record: DataRecord
    """Fingerprints of the data, so that a resumed run and every process have the same."""
    findings: Sequence[Finding] = ()
    """In all of its data."""
    class_names: Sequence[str]
    category_ids: Sequence[int] = ()
    seen: Seen | None = None
    """How large the objects of a detector's training images are."""
    uses_workers: bool = True
    """Whether its images are read by loader processes."""

    def load_steps(self, start_step: int, end_step: int, workers: int) -> Generator[list[Any]]:
        """This process's micro-batches of each step from start_step to before end_step."""
        steps = train_loader(
            self.train_data,
            self.plan,
            start_step=start_step,
            end_step=end_step,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            accumulate=self.config.train.accumulate,
            workers=workers,
            pin_memory=self.processes.device.type == "cuda",
            collate=self.collate,
        )
        assert isinstance(steps, Generator), "the loop closes it, and its workers with it"
        return steps

    def take_batches_of(self, batch_size: int) -> None:
        """Train with so many images per update from here on."""
        self.config = with_batch_size(self.config, batch_size)
        self.plan = self.plan.resized(batch_size)

    def follow_plan(self) -> None:
        """Once the batch size is known: what in the data depends on the length of the run."""
        return

    @abstractmethod
    def losses(
        self, wrapped: nn.Module, batch: Any, *, seed: int, step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Named losses, to be summed, and other numbers to be logged; all still on the device."""

    @abstractmethod
    def image_names(self, micro_batches: Sequence[Any]) -> list[str]:
        """Each image of a step, for messages."""

    def finalize(self, precision: Precision, workers: int, total_steps: int) -> None:
        """What is done to the model once, after the last update; nothing for detectors."""
        return

    @abstractmethod
    def validate(
        self, precision: Precision, workers: int, stop: StopRequest | None
    ) -> Validation | None:
        """Metrics on data.val; None where a stop was requested meanwhile."""

    @abstractmethod
    def draw_batch(self, micro_batches: Sequence[Any], step: int, path: Path) -> None:
        """The first images of update number `step`, counted from 0, as the model gets them."""

    @abstractmethod
    def small_batch(self) -> tuple[Any, int]:
        """A batch of an image or two, and its area in pixels, to estimate memory by."""

    @abstractmethod
    def largest_area(self) -> int:
        """Pixels of the largest padded image that training can meet."""
