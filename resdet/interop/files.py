"""Files of weights as named tensors, in whichever format; none of their code is run."""

from __future__ import annotations

import mmap
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

# Put before the names by DistributedDataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")
# Where other programs keep the tensors in their files; blobs are Caffe2's.
CONTAINERS = ("model", "state_dict", "model_state_dict", "blobs")
# Caffe2's state of the optimizer, beside each blob.
MOMENTUM = "_momentum"
OLD_PICKLES = 5
"""Before the tensors of a file of torch's older format: magic number, protocol, system, content and
the tensors' keys."""
MAX_INFLATED = 10
"""Times that an archive's content may be larger than its file; torch writes it as it is."""
DTYPES = {
    torch.bool,
    torch.uint8,
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def read_file(path: Path) -> dict[str, Any]:
    """The dict in a file of PyTorch, a .pkl or a .safetensors file, on the CPU.

    Raises UserError for anything else: another format, a truncated file, objects in the pickle.
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
            f"{path} cannot be read as weights: it is truncated, no PyTorch file, or holds Python "
            f"objects, which are refused because loading them can run code ({detail})"
        ) from error


def _check_torch(path: Path) -> None:
    """PickleError for pickles that would crash the unpickler, and for an archive that is a bomb."""
    if not zipfile.is_zipfile(path):
        # torch's older format is a few pickles in a row, and an empty file can't be mapped
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
    # a header may also declare a type that torch has not, or a shape that overflows
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as safetensors: it is truncated or damaged ({error})"
        ) from error


def flat_state(values: Any, path: Path) -> dict[str, Tensor]:
    """Names and tensors, out of the container and without the wrappers' prefixes.

    Arrays become tensors of the same numbers. Raises UserError for other values, and for tensors
    that no network has: sparse, quantized, of complex numbers, or larger than the file.
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
    # torch takes neither another byte order nor what can't be written
    array = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise UserError(f"{what} is of type {array.dtype}, which no weights have") from error


def _check_tensor(tensor: Tensor, size: int, what: str) -> None:
    """UserError for a tensor that no file of `size` bytes holds for a network."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise UserError(f"{what} is a sparse, quantized or empty tensor; give plain ones")
    if tensor.dtype not in DTYPES:
        raise UserError(f"{what} is of type {tensor.dtype}, which no weights have")
    if tensor.numel() * tensor.element_size() > size:
        raise UserError(f"{what} is declared larger than the whole file, which is damaged")
