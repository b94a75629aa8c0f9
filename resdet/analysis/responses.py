"""How strongly each 3×3 layer of a trained network responds (He et al. 2016, 4.2, figure 7)."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resdet.backbones.norm import FrozenBatchNorm2d
from resdet.data.classification.cifar import CifarData
from resdet.data.classification.samples import BROKEN, ClassificationBatch, collate_classification
from resdet.errors import UserError
from resdet.factory import build_classification_val_data, load_classifier

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d, nn.GroupNorm)
BATCH_SIZE = 50


@dataclass
class Response:
    """One 3×3 convolution."""

    layer: str
    """Name of the convolution in the network."""
    measured: str
    """Name of the measured module: the norm after it, or the convolution itself."""
    std: float
    """Standard deviation over images, channels and positions."""


@dataclass
class RunResponses:
    """The layers of one run, in the order of the forward pass."""

    name: str
    num_images: int
    after_norm: bool
    """Whether measured after the norm; see `measure_responses`."""
    layers: list[Response]


@dataclass
class _Moments:
    """Mean and variance of a stream, merged per batch in float64 (Chan et al. 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences from the mean."""

    def add(self, values: Tensor) -> None:
        variance, mean = torch.var_mean(values.float(), correction=0)
        more, difference = values.numel(), mean.item() - self.mean
        total = self.count + more
        self.squares += variance.item() * more + difference**2 * self.count * more / total
        self.mean += difference * more / total
        self.count = total

    @property
    def std(self) -> float:
        return math.sqrt(self.squares / self.count)


def measure_responses(model: nn.Module, batches: Iterable[Tensor]) -> list[Response]:
    """The standard deviation of each 3×3 convolution's response, in the order of the forward pass.

    `batches` are normalised images (B, 3, H, W), at least one. The response is the output of the
    norm after the convolution, before the nonlinearity and the addition. If any 3×3 convolution has
    no norm after it (pre-activation networks, networks without norms), it is the output of the
    convolution, for all layers. The deviation is over images × channels × positions, divided by
    their count. `model` must be in evaluation mode: norms use their running statistics.
    Raises UserError for a network without a 3×3 convolution.
    """
    assert not model.training, "batch statistics would hide the strength of responses"
    pairs: list[tuple[nn.Module, nn.Module]] = []
    moments: dict[nn.Module, _Moments] = {}

    def add(module: nn.Module, _: Any, output: Tensor) -> None:
        # now, because an in-place nonlinearity is about to overwrite the output
        moments[module].add(output)

    for batch in batches:
        if not pairs:
            pairs = _layers_in_order(model, batch[:1])
            moments = {measured: _Moments() for _, measured in pairs}
        with torch.inference_mode(), _hooked(moments, add):
            model(batch)
    names = {module: name for name, module in model.named_modules()}
    return [Response(names[conv], names[at], moments[at].std) for conv, at in pairs]


def _layers_in_order(model: nn.Module, images: Tensor) -> list[tuple[nn.Module, nn.Module]]:
    """Each 3×3 convolution and the module whose output is its response; see `measure_responses`."""
    norms: dict[nn.Module, nn.Module | None] = {}
    # Outputs are kept, so that no other tensor gets their identity.
    outputs: dict[int, tuple[Tensor, nn.Module]] = {}

    def see(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            norms.setdefault(module, None)
            outputs[id(output)] = (output, module)
        elif inputs and id(inputs[0]) in outputs:
            norms[outputs[id(inputs[0])][1]] = module

    watched = [m for m in model.modules() if isinstance(m, NORMS) or _is_3x3(m)]
    with torch.inference_mode(), _hooked(watched, see):
        model(images)
    if not norms:
        raise UserError("this network has no 3×3 convolutions, whose responses are compared")
    if None in norms.values():
        return [(conv, conv) for conv in norms]
    return [(conv, norm) for conv, norm in norms.items() if norm is not None]


def _is_3x3(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[..., None]) -> Iterator[None]:
    """Within the context `hook` is called after each call of these modules."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_responses(spec: str, *, name: str, num_images: int, device: torch.device) -> RunResponses:
    """Responses of a run folder or checkpoint on the validation images of its own config.

    `num_images` of them are taken, evenly spread over the set; images that can't be read are left
    out. Raises UserError if `spec` is not a classifier or has no validation images to read.
    """
    model = load_classifier(spec, option="--responses")
    assert model.config is not None, "a run's classifier carries its config"
    data = build_classification_val_data(model.config, classes=model.class_names)
    model.place(device)
    count = min(num_images, len(data))
    keys = [(0, index * len(data) // count) for index in range(count)]
    used = 0

    def batches() -> Iterator[Tensor]:
        nonlocal used
        for start in range(0, count, BATCH_SIZE):
            batch = _read(data, keys[start : start + BATCH_SIZE])
            images = batch.images[batch.labels != BROKEN]
            if len(images):
                used += len(images)
                yield model.normalize(images.to(device))

    layers = measure_responses(model, batches())
    if not layers:
        raise UserError(f"{spec}: none of {count} validation images can be read")
    after_norm = all(layer.measured != layer.layer for layer in layers)
    return RunResponses(name, used, after_norm, layers)


def _read(data: Any, keys: list[tuple[int, int]]) -> ClassificationBatch:
    """The (epoch, index) `keys` of a set that is in memory, or of one with one file per image."""
    if isinstance(data, CifarData):
        return data.batch(keys)
    return collate_classification([data[key] for key in keys])
