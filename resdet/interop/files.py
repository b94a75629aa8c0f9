"""Weight files of any format as named tensors; no code in them is run."""

import mmap
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.files.pickles import PickleError, check_opcodes, read_pickle

# Prefixes that DistributedDataParallel and torch.compile add to names.
WRAPPERS = ("module.", "_orig_mod.")
# Keys under which other programs store the tensors; blobs is Caffe2's.
CONTAINERS = ("model", "state_dict", "model_state_dict", "blobs")
# Caffe2 stores the optimizer's state next to each blob.
MOMENTUM = "_momentum"
OLD_PICKLES = 5
"""Pickles before the tensors in torch's older format: magic number, protocol, system, content and
keys of tensors."""
MAX_INFLATED = 10
"""How many times larger than its file an archive's content may be; torch does not compress."""
DTYPES = {
    torch.bool,
    torch.uint8,
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def read_file(path: Path) -> dict[str, Any]:
    """The dict in a PyTorch file, a .pkl or a .safetensors file, on the CPU.

    Raises UserError for another format, a truncated file, and Python objects in a pickle.
    """
    if path.suffix == ".safetensors":
        values = _read_safetensors(path)
    elif path.suffix == ".pkl" and not zipfile.is_zipfile(path):
        values = read_pickle(path)
    else:
        values = _read_torch(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, not a dict of named tensors")
    return values


def _read_torch(path: Path) -> Any:
    try:
        _check_torch(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read as weights: {error.strerror or error}") from error
    # A damaged or hostile pickle can raise nearly any exception from inside the unpickler.
    except Exception as error:
        detail = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"{path} cannot be read as weights: it is truncated, not a PyTorch file, or holds "
            f"Python objects, which are refused because loading them can run code ({detail})"
        ) from error


def _check_torch(path: Path) -> None:
    """PickleError for pickles that would crash the unpickler, and for a zip bomb."""
    if not zipfile.is_zipfile(path):
        # torch's older format is several pickles in a row; an empty file can't be mapped
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = 0
            for _ in range(OLD_PICKLES):
                end = check_opcodes(data, end)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > MAX_INFLATED * path.stat().st_size:
            raise PickleError("it is far larger unpacked than packed")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):
                check_opcodes(archive.read(entry))


def _read_safetensors(path: Path) -> Any:
    try:
        return dict(safetensors.torch.load_file(str(path)))
    # a header may also declare a type that torch lacks, or a shape that overflows
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as safetensors: it is truncated or damaged ({error})"
        ) from error


def flat_state(values: Any, path: Path) -> dict[str, Tensor]:
    """Names and tensors, out of their container and without the prefixes of wrappers.

    Arrays become tensors. Raises UserError for other values, and for tensors that no network has:
    sparse, quantized, complex, or larger than the file.
    """
    for container in CONTAINERS:
        if isinstance(values, Mapping) and isinstance(values.get(container), Mapping):
            values = values[container]
            if container == "blobs":
                values = {k: v for k, v in values.items() if not str(k).endswith(MOMENTUM)}
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{path} holds no named tensors; give a checkpoint or a state dict")
    size = path.stat().st_size
    state: dict[str, Tensor] = {}
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, Tensor | np.ndarray | np.generic):
            raise UserError(
                f"{path}: {str(key)[:80]!r} is a {type(value).__name__}, not a tensor; give a "
                "checkpoint of resdet or a plain state dict"
            )
        tensor = value if isinstance(value, Tensor) else _from_array(value, f"{path}: {key}")
        _check_tensor(tensor, size, f"{path}: {key[:80]}")
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
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
