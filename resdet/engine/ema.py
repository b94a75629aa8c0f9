"""Exponential moving average of a model's weights and buffers."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Averaged copies of every tensor of a model's state (Polyak & Juditsky 1992).

    The decay of step s is min(decay, (1 + s) / (10 + s)), so that short runs are not held to
    their random start. Floating tensors are averaged, buffers included; counters are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.live: dict[str, Tensor] = dict(model.state_dict())
        self.averages = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        names = [name for name, tensor in self.live.items() if tensor.is_floating_point()]
        self._live = [self.live[name] for name in names]
        self._averages = [self.averages[name] for name in names]
        self._counters = [name for name in self.live if name not in set(names)]

    def decay_at(self, step: int) -> float:
        """The decay of the update after step `step`, counted from 0."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after update number `step`."""
        torch._foreach_lerp_(self._averages, self._live, 1.0 - self.decay_at(step))
        for name in self._counters:
            self.averages[name].copy_(self.live[name])

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """The model holds the averages inside, and exactly its own weights again after."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self.live.items():
            held = tensor.clone()
            tensor.copy_(self.averages[name])
            self.averages[name].copy_(held)

    def load(self, averages: dict[str, Tensor]) -> None:
        """Averages of a checkpoint, by the model's names."""
        assert averages.keys() == self.averages.keys(), "EMA of another model"
        with torch.no_grad():
            for name, tensor in averages.items():
                self.averages[name].copy_(tensor)
