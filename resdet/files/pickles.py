"""Untrusted pickles: only arrays and plain containers are read.

A pickle is a program. Here its opcodes are first walked without running any, so that none can ask
for more memory than its file is long; then they run with stand-ins for the few names that numpy's
arrays are made of. No function of the file's choice is ever called.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resdet.errors import UserError

MAX_NESTED = 100
"""How deep containers may be nested; of tuples because Python hashes them recursively, and without
a limit."""
MAX_VALUES = 10_000_000
"""How many values a file may have, those of a container counted wherever it is used."""
MAX_BITS = 64
"""Of integers."""
# Booleans, integers, floats and complex numbers; no objects, strings, dates or records.
PLAIN_DTYPE = re.compile(r"[<>=|]?[biufc]\d{1,2}")
_LENGTH_FIELDS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
_MARK = -1


class PickleError(ValueError):
    """Why a pickle is not read: damaged, or what it holds that is refused."""


def read_pickle(path: str | Path) -> Any:
    """The content of a `.pkl` of Detectron2's model zoo or of Caffe2, also of Python 2.

    Dicts, lists, tuples, sets, strings, bytes, numbers and numpy arrays of numbers (`PlainArray`,
    no larger together than the file). Raises UserError for anything else, naming what was refused.
    """
    path = Path(path)
    try:
        # before it is in memory: any large file may be given
        with path.open("rb") as file, mapped(file) as data:
            return load_plain(data[: check_opcodes(data)])
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except PickleError as error:
        raise UserError(
            f"{path} cannot be read as a pickle of weights: {error}. Download the file again "
            "from where it was published; in a file of your own keep named arrays only"
        ) from error


def mapped(file: IO[bytes]) -> mmap.mmap:
    """An open file's bytes; PickleError for an empty one, which cannot be mapped."""
    if not os.fstat(file.fileno()).st_size:
        raise PickleError("it is empty, and truncated")
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def load_plain(data: bytes, *, encoding: str = "latin1") -> Any:
    """The content of the pickle `data`; `encoding` is for strings of Python 2, "bytes" keeps them.

    Raises PickleError for all that is not plain.
    """
    try:
        check_opcodes(data)
        return PlainUnpickler(data, encoding).load()
    except PickleError:
        raise
    # a damaged pickle can raise nearly anything
    except Exception as error:
        detail = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise PickleError(f"it is damaged or no pickle ({detail})") from error


def check_nesting(values: Any) -> None:
    """PickleError for a container in itself, too deep nesting, too many values when containers that
    are used several times are written out, and integers of more than 64 bits."""
    sizes: dict[int, int] = {}
    open_: dict[int, int] = {id(values): 1}
    stack: list[tuple[Any, Iterator[Any]]] = [(values, iter(_inside(values)))]
    while stack:
        node, items = stack[-1]
        for item in items:
            if type(item) is int and item.bit_length() > MAX_BITS:
                raise PickleError(f"it holds an integer of {item.bit_length()} bits")
            if not isinstance(item, dict | list | tuple | set | frozenset):
                open_[id(node)] += 1
            elif id(item) in sizes:
                open_[id(node)] += sizes[id(item)]
            elif id(item) in open_ or len(stack) >= MAX_NESTED:
                raise PickleError(f"it nests containers in themselves, or more than {MAX_NESTED}")
            else:
                open_[id(item)] = 1
                stack.append((item, iter(_inside(item))))
                break
        else:
            stack.pop()
            size = sizes[id(node)] = open_.pop(id(node))
            if size > MAX_VALUES:
                raise PickleError(f"it holds more than {MAX_VALUES} values")
            if stack:
                open_[id(stack[-1][0])] += size


def _inside(values: Any) -> Iterable[Any]:
    if isinstance(values, dict):
        return [*values, *values.values()]
    return values if isinstance(values, list | tuple | set | frozenset) else [values]


class PlainArray(np.ndarray):
    """An array whose pickled state is checked: numbers, as many as are there."""

    __slots__ = ("_budget",)
    _budget: _Budget

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, raw = state
        checked, content = _check_array(shape, dtype, raw, self._budget)
        # its stubs know numpy's own booleans alone
        whole = (1, shape, checked, bool(is_fortran), bytes(content))
        super().__setstate__(whole)  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()


class _PlainDtype:
    """What stands for a dtype while a pickle is read."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not PLAIN_DTYPE.fullmatch(text):
            is_object = isinstance(text, str) and text.lstrip("<>=|").startswith("O")
            what = "Python objects" if is_object else f"dtype {str(code)[:40]!r}"
            raise PickleError(f"it holds an array of {what}, which is refused")
        self.code = text.lstrip("<>=|")

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise PickleError("it holds an array of records, which is refused")
        self.code = order + self.code

    @property
    def real(self) -> np.dtype[Any]:
        return np.dtype(self.code)


class _Budget:
    """Bytes that arrays may still take: those of the file, each once."""

    def __init__(self, size: int) -> None:
        self.left = size

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise PickleError("its arrays are larger than the file, which is refused")


class Admitted:
    """A function that a pickle may call, and may do nothing else with."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise PickleError("it changes a function, which is refused")


class PlainUnpickler(pickle.Unpickler):
    """Calls stand-ins of its own alone, and refuses every other name."""

    array: type[PlainArray] = PlainArray
    """What arrays become."""
    admitted: dict[tuple[str, str], Any]
    """Stand-ins by module and name."""

    def __init__(self, data: bytes, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        budget, encoded = _Budget(len(data)), _Budget(len(data))

        def new_array(*_: Any) -> PlainArray:
            array = np.ndarray.__new__(self.array, (0,), np.int8)
            array._budget = budget
            return array

        def scalar(dtype: Any, raw: Any) -> Any:
            checked, content = _check_array((), dtype, raw, budget)
            return np.frombuffer(content, checked)[0]

        def from_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
            checked, content = _check_array(shape, dtype, buffer, budget)
            array: NDArray[Any] = np.frombuffer(content, checked)
            return array.reshape(shape, order="F" if order == "F" else "C")

        def encode(text: str, encoding: str) -> bytes:
            # how Python 3 writes bytes for Python 2
            if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
                raise PickleError(f"it encodes as {str(encoding)[:40]!r}, which is refused")
            encoded.spend(len(text))
            return text.encode("latin1")

        self.admitted = {
            ("numpy", "ndarray"): Admitted(new_array),
            ("numpy", "dtype"): Admitted(_PlainDtype),
            ("_codecs", "encode"): Admitted(encode),
            ("collections", "OrderedDict"): OrderedDict,
        }
        for core in ("numpy.core", "numpy._core"):
            self.admitted |= {
                (f"{core}.multiarray", "_reconstruct"): Admitted(new_array),
                (f"{core}.multiarray", "scalar"): Admitted(scalar),
                (f"{core}.numeric", "_frombuffer"): Admitted(from_buffer),
            }
        for module in ("builtins", "__builtin__"):
            self.admitted |= {(module, "set"): set, (module, "frozenset"): frozenset}
            # empty bytes are written as a call
            self.admitted[module, "bytes"] = Admitted(lambda: b"")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise PickleError(
                f"it holds {module}.{name}, which is refused because loading it can run code"
            )
        return self.admitted[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise PickleError("it refers to data outside of itself, which is refused")


def _check_array(
    shape: Any, dtype: Any, raw: Any, budget: _Budget
) -> tuple[np.dtype[Any], bytes | bytearray]:
    """The real dtype and the bytes of an array in a pickle; PickleError where they don't agree."""
    if not isinstance(dtype, _PlainDtype):
        raise PickleError("it holds an array without a dtype, which is refused")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise PickleError("it holds an array of an impossible shape")
    real = dtype.real
    needed = prod(shape) * real.itemsize
    if not isinstance(raw, bytes | bytearray | str) or len(raw) != needed:
        there = len(raw) if isinstance(raw, bytes | bytearray | str) else 0
        raise PickleError(
            f"it holds an array of {needed} bytes by its shape {str(shape)[:60]}, and {there} are "
            "there"
        )
    budget.spend(needed)
    return real, raw.encode("latin1") if isinstance(raw, str) else raw


def check_opcodes(data: bytes | mmap.mmap, start: int = 0) -> int:
    """Follow the opcodes of the pickle at `start` without running them; returns where it ends.

    Raises PickleError where lengths, places in the memo or nesting are out of bounds, with which
    an unpickler would take memory without limit, or its process crash.
    """
    position, count = start, 0
    # how deeply tuples are nested in each object, and marks
    stack: list[int] = []
    memo: dict[int, int] = {}
    while True:
        if position >= len(data):
            raise PickleError("it is truncated")
        opcode = _OPCODES.get(chr(data[position]))
        if opcode is None:
            raise PickleError("it is damaged or no pickle")
        argument, position = _argument(data, position + 1, opcode)
        count += 1
        if opcode.name == "STOP":
            return position
        if opcode.name in ("EXT1", "EXT2", "EXT4"):
            raise PickleError("it uses the extension registry, which is refused")
        if not _remember(opcode.name, argument, stack, memo, count):
            _step(opcode, stack)


def _remember(
    name: str, argument: bytes, stack: list[int], memo: dict[int, int], most: int
) -> bool:
    """Do what an opcode does with the memo, whose places go up to `most`; False for others."""
    if name == "MEMOIZE":
        place = len(memo)
    elif name in ("PUT", "GET"):
        place = int(argument)
    elif name in ("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"):
        place = int.from_bytes(argument, "little")
    else:
        return False
    if "GET" in name:
        stack.append(memo.get(place, 0))
        return True
    # the unpickler allocates all places up to the largest one
    if not 0 <= place <= most or not stack:
        raise PickleError("it is damaged: a place in its memo is out of reach")
    memo[place] = stack[-1]
    return True


def _step(opcode: pickletools.OpcodeInfo, stack: list[int]) -> None:
    """What an opcode that does not use the memo does to the stack."""
    name = opcode.name
    before = [each.name for each in opcode.stack_before]
    taken: list[int] = []
    if "mark" in before or (name == "POP" and stack and stack[-1] == _MARK):
        while stack and (top := stack.pop()) != _MARK:
            taken.append(top)
        before = before[: before.index("mark")] if "mark" in before else []
    if len(stack) < len(before):
        raise PickleError("it is damaged: its stack is empty")
    if before:
        taken += stack[-len(before) :]
        del stack[-len(before) :]
    if name == "MARK":
        stack.append(_MARK)
    elif name == "DUP":
        stack += taken * 2
    elif "TUPLE" in name:
        depth = 1 + max(taken, default=0)
        if depth > MAX_NESTED:
            raise PickleError(f"it nests more than {MAX_NESTED} tuples, which is refused")
        stack.append(depth)
    else:
        stack += [0] * len(opcode.stack_after)


def _argument(
    data: bytes | mmap.mmap, start: int, opcode: pickletools.OpcodeInfo
) -> tuple[bytes, int]:
    """The argument of an opcode, without its length, and where the next opcode is."""
    kind = opcode.arg
    if kind is None:
        return b"", start
    if kind.n == pickletools.UP_TO_NEWLINE:
        end = start
        for _ in range(2 if "pair" in kind.name else 1):
            end = data.find(b"\n", end) + 1
            if end == 0:
                raise PickleError("it is truncated")
        return data[start : end - 1], end
    size = kind.n
    if kind.n in _LENGTH_FIELDS:
        width = _LENGTH_FIELDS[kind.n]
        size = int.from_bytes(data[start : start + width], "little")
        start += width
    if start + size > len(data):
        raise PickleError("it is truncated, or declares more data than it has")
    # of long arguments nothing is looked at
    return data[start : start + min(size, 8)], start + size
