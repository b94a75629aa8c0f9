"""Layers, parameters, multiply-adds and memory of a network, counted without computing anything.

One image goes through the network on the meta device, where tensors have shapes and no values.
Operations are counted, not modules, so that a functional convolution counts as well.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.mm.default: 0, _ATEN.addmm.default: 1, _ATEN.bmm.default: 0}
"""Matrix products, and the position of their left factor."""


@dataclass
class LayerRow:
    """One module of a network; its calls are added up."""

    name: str
    """Where it is in the network, such as backbone.layer1.0.conv1."""
    kind: str
    """Its class."""
    output: tuple[int, ...] = ()
    """Shape of its last output without the batch, such as (64, 112, 112); () if not one tensor."""
    parameters: int = 0
    """Its own, without those of modules inside it."""
    multiply_adds: int = 0
    activation_bytes: int = 0
    """What autograd stores for the backward pass of one fp32 image, without what earlier layers
    stored."""


@dataclass
class NetworkCount:
    """The cost of one image."""

    image_size: tuple[int, int]
    """(height, width) in pixels."""
    layers: list[LayerRow]
    """In the order of the forward pass, without modules that are only called in training."""
    depth: int
    """Weighted layers, convolutions and linear, on the longest path from the image to the output;
    parallel branches, such as projection shortcuts and gates, do not add to it (He et al. 2016)."""
    parameters: int
    training_only: int
    """How many of the parameters belong to modules that are only called in training: auxiliary
    classifiers."""
    multiply_adds: int
    activation_bytes: int
    """What autograd stores for training on one fp32 image, including the image."""


def count_parameters(model: nn.Module) -> int:
    """Elements of all parameters, including frozen ones, without buffers (batch statistics)."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_network(model: nn.Module, image_size: tuple[int, int]) -> NetworkCount:
    """Count everything for an image of (height, width) pixels in evaluation mode: without auxiliary
    classifiers, dropout's masks and activation checkpointing.

    Multiply-adds are those of convolutions and linear layers, without biases, norms, pooling and
    additions, as the paper counts FLOPs (He et al. 2016, table 1). `model` takes (B, 3, H, W), on
    any device; it is not changed. Raises what the network raises for images of this size.
    """
    state = {
        name: torch.empty(
            value.shape,
            dtype=torch.float32 if value.is_floating_point() else value.dtype,
            device="meta",
            requires_grad=value.requires_grad,
        )
        for name, value in [*model.named_parameters(), *model.named_buffers()]
    }
    images = torch.empty(1, 3, *image_size, device="meta")
    recorder = _Recorder(list(state.values()))
    with (
        _evaluating(model),
        _followed(model, recorder),
        torch.enable_grad(),
        saved_tensors_hooks(recorder.keep, lambda kept: kept),
        recorder,
    ):
        output = functional_call(model, state, (images,))
    rows = [row for module, row in recorder.rows.items() if _is_shown(module, row)]
    parameters = count_parameters(model)
    reached = {id(p) for module in recorder.rows for p in module.parameters(recurse=False)}
    return NetworkCount(
        image_size=image_size,
        layers=rows,
        depth=max(map(recorder.depth_of, _tensors(output))),
        parameters=parameters,
        training_only=sum(p.numel() for p in model.parameters() if id(p) not in reached),
        multiply_adds=sum(row.multiply_adds for row in recorder.rows.values()),
        activation_bytes=sum(row.activation_bytes for row in recorder.rows.values()),
    )


@dataclass
class _Recorder(TorchDispatchMode):
    """Records every operation of a forward pass and the module it belongs to."""

    fixed: list[Tensor]
    """Parameters and buffers, which the backward pass needs no copy of."""
    rows: dict[nn.Module, LayerRow] = field(default_factory=dict)
    """Every module called, in the order of first calls."""
    running: list[LayerRow] = field(default_factory=list)
    """The modules that are being called, outermost first."""

    def __post_init__(self) -> None:
        super().__init__()
        self._depths: dict[int, int] = {}
        self._kept = {_key(tensor) for tensor in self.fixed}
        # A new storage could get the address, which is the key, of a freed one.
        self._alive: list[torch.UntypedStorage] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        count = _operation_multiply_adds(func, args, output)
        self.running[-1].multiply_adds += count or 0
        depth = max(map(self.depth_of, _tensors((args, kwargs))), default=0)
        for tensor in _tensors(output):
            self._alive.append(tensor.untyped_storage())
            self._depths[_key(tensor)] = depth + (count is not None)
        return output

    def depth_of(self, tensor: Tensor) -> int:
        """Weighted layers between the image and this tensor."""
        return self._depths.get(_key(tensor), 0)

    def keep(self, tensor: Tensor) -> Tensor:
        """Autograd stores a tensor: counted once, however many operations store it."""
        if _key(tensor) not in self._kept:
            self._kept.add(_key(tensor))
            self._alive.append(tensor.untyped_storage())
            self.running[-1].activation_bytes += tensor.untyped_storage().nbytes()
        return tensor


def _operation_multiply_adds(func: Any, args: tuple[Any, ...], output: Any) -> int | None:
    """Of a convolution or a matrix product; None for other operations."""
    if func is _ATEN.convolution.default:
        image, weight, transposed = args[0], args[1], args[6]
        # weight (out, in / groups, h, w), transposed (in, out / groups, h, w)
        return (image if transposed else output).numel() * weight[0].numel()
    if func in _PRODUCTS:
        return output.numel() * args[_PRODUCTS[func]].shape[-1]
    return None


def _key(tensor: Tensor) -> int:
    """The same for all views of a memory, and after in-place operations."""
    return tensor.untyped_storage()._cdata


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _is_shown(module: nn.Module, row: LayerRow) -> bool:
    """Modules that only call others, or do nothing in evaluation, are not shown."""
    if row.parameters or row.multiply_adds or row.activation_bytes:
        return True
    return not any(module.children()) and not isinstance(module, nn.Identity | nn.Dropout)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context; afterwards each module has its previous mode."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _followed(model: nn.Module, recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder which module runs."""
    names = {module: name or "(network)" for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        if module not in recorder.rows:
            own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            recorder.rows[module] = LayerRow(names[module], type(module).__name__, parameters=own)
        recorder.running.append(recorder.rows[module])

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        row = recorder.running.pop()
        row.output = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()

    handles = [m.register_forward_pre_hook(enter) for m in names]
    handles += [m.register_forward_hook(leave) for m in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
