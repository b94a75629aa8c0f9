"""One checked reader for every file of tensors: of torch, safetensors, and plain pickles.

The first bytes decide what a file is, not its name; no code in it is run.
"""

from pathlib import Path
from typing import Any

import safetensors.torch

from resdet.errors import UserError
from resdet.files.pickles import PickleError, check_nesting, read_pickle
from resdet.files.torch_files import LEGACY, ZIP, Foreign, read_torch

HEAD = 32
"""Bytes that decide."""
LENGTH = 8
"""Bytes of the header's length, with which safetensors begins."""
PICKLES = (b"\x80", b"(", b"}")
"""How a pickle of a dict begins, by protocol."""
OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS to the file; run git lfs pull",
    b"<": "is a web page and not the file; download it again from where it was published",
    b"\x89HDF": "is an HDF5 file, which is not supported; save the tensors as safetensors",
}
"""What is often given in place of weights, by its first bytes."""


def read_tensor_file(path: str | Path) -> dict[str, Any]:
    """The dict in a file of `torch.save`, a `.safetensors` file or a plain pickle, on the CPU.

    Objects other than tensors, arrays and plain values are `Foreign`. Raises UserError for a file
    that is absent, damaged, of another format, or without a dict.
    """
    path = Path(path)
    try:
        values = _read(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read as weights: {error.strerror or error}") from error
    except PickleError as error:
        raise UserError(
            f"{path} cannot be read as weights: {error}; give another copy of the file"
        ) from error
    if isinstance(values, Foreign):
        raise UserError(f"{path} {values.advice}")
    if not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}, not a dict of named tensors")
    return values


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(HEAD)
    for start, what in OTHERS.items():
        if head.startswith(start):
            raise UserError(f"{path} cannot be read as weights: it {what}")
    if head.startswith((ZIP, LEGACY)):
        return read_torch(path)
    length = int.from_bytes(head[:LENGTH], "little")
    is_safetensors = head[LENGTH : LENGTH + 1] == b"{" and length < path.stat().st_size
    if is_safetensors or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if not head.startswith(PICKLES):
        raise PickleError("it is damaged, or no file of torch, safetensors or pickle")
    values = read_pickle(path)
    check_nesting(values)
    return values


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(safetensors.torch.load_file(str(path)))
    # a header may also declare a type that torch lacks, or a shape that overflows
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as safetensors: it is truncated or damaged ({error})"
        ) from error
