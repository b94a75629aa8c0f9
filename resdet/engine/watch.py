"""Losses of the last steps, kept on the device and read back only now and then."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.errors import UserError

MAX_NAMED = 16
ERROR = "error_percent"
"""The name of a classifier's training error among a step's numbers."""
ERROR_STEPS = 50
"""Steps that a training error is averaged over."""


class NonFiniteError(UserError):
    """A loss or a weight became NaN or infinite; the text names step, losses and images."""


@dataclass
class _Row:
    step: int
    values: Tensor
    images: list[str]
    num_readable: int


class LossWatch:
    """Remembers every step's losses and image names until they are read.

    A GPU is waited for only in `read`, which the loop calls before each log line, validation and
    checkpoint, and at least every `capacity` steps: a NaN never reaches a saved file, and the
    error still names the step where it first appeared.
    """

    def __init__(
        self, processes: Processes, recent: list[float] | None = None, capacity: int = 100
    ) -> None:
        """`recent` collects the last training errors, whenever they are read."""
        self.processes = processes
        self.recent = [] if recent is None else recent
        self.capacity = capacity
        self._names: tuple[str, ...] = ()
        self._rows: list[_Row] = []

    @property
    def full(self) -> bool:
        return len(self._rows) >= self.capacity

    def add(
        self, step: int, values: dict[str, Tensor], images: Sequence[str], num_readable: int
    ) -> None:
        """The scalars of one finished step, counted from 1; names are the same in every step.

        `num_readable` of the images could be read: numbers other than losses are means over them.
        """
        names = tuple(values)
        assert self._names in ((), names), f"losses changed: {self._names} to {names}"
        self._names = names
        row = torch.stack([value.detach().double() for value in values.values()])
        self._rows.append(_Row(step, row, list(images), num_readable))

    def read(self) -> dict[str, float]:
        """The newest step's numbers as a mean over the processes; forgets what was read.

        A training error is the mean over the last `ERROR_STEPS` steps.

        NonFiniteError where a loss of any step since the last reading is not finite. All processes
        call it at the same steps.
        """
        assert self._rows, "nothing to read"
        local = torch.stack([row.values for row in self._rows]).cpu()
        weights = torch.tensor([float(row.num_readable) for row in self._rows]).double()
        mean_weights = distributed.mean(weights, self.processes)
        # 1 where all images could be read
        factors = torch.where(mean_weights > 0, weights / mean_weights, 0.0)
        others = [i for i, name in enumerate(self._names) if name.endswith("_percent")]
        scaled = local.clone()
        scaled[:, others] *= factors[:, None]
        values = distributed.mean(scaled, self.processes)
        # A gradient norm may overflow under fp16, where the scaler skips that update.
        losses = [i for i, name in enumerate(self._names) if name.startswith("loss")]
        bad = (~values[:, losses].isfinite()).any(dim=1).nonzero()
        if len(bad):
            self._fail(int(bad[0]), local)
        self._rows.clear()
        numbers = dict(zip(self._names, values[-1].tolist(), strict=True))
        if ERROR in numbers:
            self.recent += values[mean_weights > 0, self._names.index(ERROR)].tolist()
            del self.recent[:-ERROR_STEPS]
            numbers[ERROR] = sum(self.recent) / max(1, len(self.recent))
        return numbers

    def read_all(self) -> None:
        """Read what has been added, if anything has."""
        if self._rows:
            self.read()

    def _fail(self, index: int, local: Tensor) -> None:
        row = self._rows[index]
        own = (local[index].tolist(), row.images)
        words = []
        for rank, (values, images) in enumerate(distributed.gather(own, self.processes)):
            where = f"process {rank}: " if self.processes.world_size > 1 else ""
            numbers = ", ".join(f"{n} {v:.6g}" for n, v in zip(self._names, values, strict=True))
            named = ", ".join(images[:MAX_NAMED])
            more = f" and {len(images) - MAX_NAMED} more" if len(images) > MAX_NAMED else ""
            words.append(f"{where}{numbers}; images: {named}{more}")
        raise NonFiniteError(
            f"step {row.step}: the loss is not finite; {'; '.join(words)}. Look at these images "
            "and their annotations; else lower optim.lr, lengthen optim.warmup_steps, set "
            "optim.clip_norm or use another train.precision. No checkpoint was written after this"
        )


@torch.no_grad()
def check_weights(model: nn.Module, step: int) -> None:
    """NonFiniteError where a weight or buffer is NaN or infinite, before a file is written.

    An update can overflow although its losses were finite.
    """
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    sums = torch.stack([value.double().abs().sum() for value in state.values()])
    finite = sums.isfinite().tolist()
    bad = [name for name, good in zip(state, finite, strict=True) if not good]
    if bad:
        raise NonFiniteError(
            f"step {step}: the losses are finite but {len(bad)} weights are not after the update "
            f"(first {bad[0]}); lower optim.lr or set optim.clip_norm. This checkpoint was not "
            "written"
        )
