"""Weight files of any format as named tensors, out of whatever another program has put around
them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resdet.errors import UserError, first_few
from resdet.files.torch_files import Foreign
from resdet.interop.wrappers import AVERAGED, Unwrapped, chosen, has_known_parts, unwrap

log = logging.getLogger("resdet")

CONTAINERS = ("model", "state_dict", "model_state_dict", "blobs")
"""Keys under which most programs store the tensors, the first one counts; blobs is Caffe2's."""
# Caffe2 stores the optimizer's state next to each blob.
MOMENTUM = "_momentum"
DTYPES = {
    torch.bool,
    torch.uint8,
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def flat_state(values: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of `read_state`, without what was before their names."""
    return read_state(values, path).state


def read_state(values: Any, path: Path) -> Unwrapped:
    """Names and tensors, out of their container and without the prefixes of wrappers; averaged
    tensors take the place of the others.

    Arrays become tensors. Raises UserError for other values, and for tensors that no network has:
    sparse, quantized, complex, or larger than the file.
    """
    tensors, averaged = _contained(values, path)
    network = unwrap(named_tensors(tensors, path), path)
    if averaged is not None:
        key, content = averaged
        means = unwrap(named_tensors(content, path), path).state
        fits = means.keys() <= network.state.keys()
        log.info("%s: the averaged weights, %r, are %s", path, key, "taken" if fits else "left out")
        network.state.update(means if fits else {})
    return network


def _contained(
    values: Any, path: Path
) -> tuple[Mapping[Any, Any], tuple[str, Mapping[Any, Any]] | None]:
    """The mapping that has the tensors, and the key and mapping of averages beside it."""
    averaged = None
    while isinstance(values, Mapping) and not any(map(_is_array, values.values())):
        inside = {key: each for key, each in values.items() if isinstance(each, Mapping)}
        with_tensors = [
            key
            for key, each in inside.items()
            if isinstance(key, str) and any(map(_is_tensor, each.values()))
        ]
        means = [key for key in with_tensors if AVERAGED.search(key)]
        others = [key for key in with_tensors if key not in means]
        if networks := [key for key in others if has_known_parts(map(str, inside[key]))]:
            others = networks
        container = next((key for key in CONTAINERS if key in inside), None)
        if container is not None:
            key = container
        elif others:
            names = [name for key in others for name in map(str, inside[key])]
            key = chosen(others, names, path, "'{}'")
            if len(others) > 1:
                left_out = first_few([repr(other) for other in others if other != key])
                log.info(
                    "%s: the tensors of %r are taken, and not those of %s", path, key, left_out
                )
        elif means:
            key = means[0]
        else:
            break
        if means and key != means[0]:
            averaged = means[0], inside[means[0]]
        values = inside[key]
        if key == "blobs":
            values = {k: v for k, v in values.items() if not str(k).endswith(MOMENTUM)}
    return _mapping(values, path), averaged


def _mapping(values: Any, path: Path) -> Mapping[Any, Any]:
    """`values` where they may be named tensors; UserError that says what they are otherwise."""
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{path} holds no named tensors; give a checkpoint or a state dict")
    for key in (*CONTAINERS, *values):
        foreign = values.get(key)
        if isinstance(foreign, Foreign) and not any(map(_is_tensor, values.values())):
            raise UserError(f"{path}: {str(key)[:80]!r} {foreign.advice}")
    return values


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic)


def _is_array(value: Any) -> bool:
    """Not one number, which may be a tensor too beside the container, as torch's examples have the
    accuracy there."""
    return _is_tensor(value) and value.ndim > 0


def named_tensors(values: Any, path: Path) -> dict[str, Tensor]:
    """All values as tensors; UserError for others, and for what is not a mapping."""
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}: its model is a {type(values).__name__}, not named tensors; it is damaged"
        )
    size = path.stat().st_size
    state: dict[str, Tensor] = {}
    for key, value in values.items():
        name = str(key)[:80]
        if isinstance(key, str) and key.endswith("_extra_state"):
            continue  # whatever a module of another toolkit adds to its tensors
        if isinstance(value, Foreign):
            raise UserError(f"{path}: {name!r} {value.advice}")
        if not isinstance(key, str) or not _is_tensor(value):
            raise UserError(
                f"{path}: {name!r} is a {type(value).__name__}, not a tensor; give a checkpoint of "
                "resdet or a plain state dict"
            )
        tensor = value if isinstance(value, Tensor) else _from_array(value, f"{path}: {name}")
        _check_tensor(tensor, size, f"{path}: {name}")
        state[key] = tensor
    return state


def _from_array(value: np.ndarray[Any, Any] | np.generic, what: str) -> Tensor:
    array = np.asarray(value)
    # torch accepts neither another byte order nor read-only memory
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise UserError(f"{what} is of type {array.dtype}, which no weights have") from error


def _check_tensor(tensor: Tensor, size: int, what: str) -> None:
    """UserError for a tensor that a network can't have in a file of `size` bytes."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{what} is a sparse, quantized or empty tensor; give plain ones")
    if tensor.dtype not in DTYPES:
        raise UserError(f"{what} is of type {tensor.dtype}, which no weights have")
    if tensor.numel() * tensor.element_size() > size:
        raise UserError(f"{what} is declared larger than the whole file, which is damaged")


def count_names(state: Mapping[str, Any], pattern: str) -> int:
    """How many names end with the regular expression."""
    return sum(1 for name in state if re.search(f"(?:{pattern})$", name))


def find_matrix(state: Mapping[str, Tensor], end: str, source: str) -> Tensor:
    """The first matrix or filter whose name ends with `end`; UserError if there is none, or if it
    is damaged."""
    name = next((name for name in state if name.endswith(end)), None)
    if name is None:
        raise UserError(
            f"{source} has no {end}: it is truncated, or no detector that resdet supports"
        )
    if state[name].ndim < 2 or 0 in state[name].shape:
        raise UserError(f"{source}: {name} has shape {tuple(state[name].shape)}; it is damaged")
    return state[name]
