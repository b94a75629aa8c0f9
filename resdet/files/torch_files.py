"""Files of `torch.save`, in its zip format and in the older one, read without running any code.

Objects other than tensors, arrays and plain containers become a `Foreign`, which knows its name
and does nothing: many trainers save their arguments beside the weights. Every length, offset and
checksum is verified before anything is allocated.
"""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from resdet.files.pickles import (
    Admitted,
    PickleError,
    PlainArray,
    PlainUnpickler,
    check_nesting,
    check_opcodes,
    mapped,
)

ZIP = b"PK\x03\x04"
"""How a zip file begins."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The pickled number that torch's older format begins with."""
HEADERS = 3
"""Pickles before the content in the older format: magic number, protocol, system."""
MAX_INFLATED = 10
"""How many times larger than its file an archive's content may be; torch does not compress."""
MAX_DIMS = 64
"""Of a tensor, as in torch."""
MAX_NAMES = 1000
"""Kinds of foreign objects in one file."""
CHUNK = 1 << 22
"""Bytes read at a time."""
COUNT = 8
"""Bytes of a storage's length in the older format."""
TENSORS = "torch._utils._rebuild_"
"""How the names of torch's functions for other tensors begin."""
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    # of quantized tensors, which are not read
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}
"""Types of elements by the names of torch's classes."""


class Foreign:
    """An object that a file holds and that is not read: no code of its class runs."""

    kind = ""
    """Module and name, such as argparse.Namespace."""
    state: Any = None
    """What the file keeps of it, for messages."""

    def __new__(cls, *_: Any, **__: Any) -> Foreign:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *_: Any, **__: Any) -> Foreign:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass

    @property
    def advice(self) -> str:
        """What it is and what to do about it, after the name of the file or key."""
        if isinstance(self.state, dict) and "_modules" in self.state:
            return (
                f"is a whole network, {self.kind:.80}, which is refused because loading it can run "
                "code; save its tensors alone, with torch.save(model.state_dict(), FILE)"
            )
        if self.kind.startswith(TENSORS):
            return "is a sparse, quantized or empty tensor; give plain ones"
        return (
            f"is of type {self.kind:.80}, which is refused because loading it can run code; keep "
            "tensors and plain values only, such as torch.save(model.state_dict(), FILE)"
        )


def read_torch(path: Path) -> Any:
    """The content of a file of `torch.save`, on the CPU; what is in it is checked by the reader of
    the content. PickleError for a damaged file and for one that would take memory without limit;
    OSError where it cannot be read."""
    with path.open("rb") as file:
        try:
            is_zip = file.read(len(ZIP)) == ZIP
            values = _read_zip(file, path) if is_zip else _read_legacy(file, path)
        except PickleError:
            raise
        # a damaged archive or pickle can raise nearly anything
        except Exception as error:
            detail = str(error).strip().split("\n")[0][:200] or type(error).__name__
            raise PickleError(f"it is truncated or damaged ({detail})") from error
    check_nesting(values)
    return values


class _Storage:
    """The bytes that tensors are views of."""

    def __init__(self, data: Tensor, dtype: torch.dtype) -> None:
        self.data, self.dtype = data, dtype


class _LenientArray(PlainArray):
    """An array that stays empty where it does not hold numbers."""

    is_refused = False

    def __setstate__(self, state: Any) -> None:
        try:
            super().__setstate__(state)
        except PickleError:
            self.is_refused = True


class _Dict(dict[Any, Any]):
    """An OrderedDict, whose attributes stay out."""

    def __setstate__(self, state: Any) -> None:
        pass

    def __reduce__(self) -> Any:
        return OrderedDict, (), None, None, iter(self.items())


class _Unpickler(PlainUnpickler):
    """Builds tensors of storages that `fetch` gives by key, number of elements and bytes of one.

    No admitted function returns a nested tuple, which `check_opcodes` takes for granted.
    """

    array = _LenientArray

    def __init__(self, data: bytes, fetch: Callable[[str, int, int], Tensor]) -> None:
        super().__init__(data, "utf-8")
        self._fetch = fetch
        self._storages: dict[str, _Storage] = {}
        self._names: dict[str, type[Foreign]] = {}
        utils, rebuild = "torch._utils", "_rebuild_tensor"
        self.admitted |= {
            ("collections", "OrderedDict"): _Dict,
            ("torch", "Size"): Admitted(_shape),
            (utils, rebuild): Admitted(self._tensor),
            (utils, f"{rebuild}_v2"): Admitted(self._tensor),
            (utils, f"{rebuild}_v3"): Admitted(self._typed_tensor),
            (utils, "_rebuild_parameter"): Admitted(_data),
            (utils, "_rebuild_parameter_with_state"): Admitted(_data),
            ("torch._tensor", "_rebuild_from_type_v2"): Admitted(self._of_type),
        }
        for name in ("numpy.core", "numpy._core"):
            strict = self.admitted[f"{name}.multiarray", "scalar"]
            self.admitted[f"{name}.multiarray", "scalar"] = Admitted(self._lenient(strict))
        self.admitted["numpy", "dtype"] = Admitted(self._lenient(self.admitted["numpy", "dtype"]))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.admitted:
            return self.admitted[module, name]
        if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return Admitted(lambda kind, *_: kind() if self._is_foreign(kind) else Foreign())
        return self._foreign(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) >= 2 and pid[0] == "module":
            # the class of a network, with its source, in the older format
            return pid[1] if self._is_foreign(pid[1]) else Foreign
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise PickleError("it refers to data outside of itself, which is refused")
        dtype, key, _, count = pid[1:5]
        if not isinstance(dtype, torch.dtype):
            return dtype() if self._is_foreign(dtype) else Foreign()
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise PickleError("it is damaged: a storage has no key or size")
        if len(pid) > 5 and pid[5] is not None:
            raise PickleError("it holds views of storages, as torch wrote them before 2017")
        if key not in self._storages:
            self._storages[key] = _Storage(self._fetch(key, count, dtype.itemsize), dtype)
        return self._storages[key]

    def _foreign(self, kind: str) -> type[Foreign]:
        if kind not in self._names:
            if len(self._names) >= MAX_NAMES:
                raise PickleError(f"it holds more than {MAX_NAMES} kinds of Python objects")
            self._names[kind] = type("Foreign", (Foreign,), {"kind": kind})
        return self._names[kind]

    @staticmethod
    def _is_foreign(kind: Any) -> bool:
        return isinstance(kind, type) and issubclass(kind, Foreign)

    def _lenient(self, strict: Callable[..., Any]) -> Callable[..., Any]:
        """`strict`, which gives a Foreign for what is refused."""

        def call(*args: Any) -> Any:
            try:
                return strict(*args)
            except PickleError:
                return self._foreign("numpy.ndarray (of no numbers)")()

        return call

    def _of_type(self, function: Any, *rest: Any) -> Any:
        """A subclass's tensor as a plain one."""
        args = rest[1]
        return function(*args) if isinstance(function, Admitted) else self._foreign(TENSORS)()

    def _typed_tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any
    ) -> Tensor | Foreign:
        dtype = rest[2]
        if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype):
            return self._foreign(TENSORS)()
        return self._tensor(_Storage(storage.data, dtype), offset, size, stride)

    def _tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any
    ) -> Tensor | Foreign:
        if not isinstance(storage, _Storage):
            return storage if isinstance(storage, Foreign) else Foreign()
        size, stride, (offset,) = _shape(size), _shape(stride), _shape((offset,))
        if len(size) != len(stride) or len(size) > MAX_DIMS:
            raise PickleError("it is damaged: a tensor has no shape")
        item, count = storage.dtype.itemsize, 1
        for side in size:
            count *= side
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and (last + 1) * item > storage.data.numel():
            raise PickleError(f"it is damaged: a tensor of shape {size!s:.60} has too few numbers")
        tensor = torch.empty(0, dtype=storage.dtype)
        return tensor.set_(storage.data.untyped_storage(), offset if count else 0, size, stride)  # type: ignore[call-overload, no-any-return]


def _shape(numbers: Any) -> tuple[int, ...]:
    if not isinstance(numbers, tuple | list):
        raise PickleError("it is damaged: a tensor has no shape")
    if any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers):
        raise PickleError("it is damaged: a tensor has no shape")
    return tuple(numbers)


def _data(data: Any, *_: Any) -> Any:
    """What a parameter holds."""
    if not isinstance(data, Tensor | Foreign):
        raise PickleError("it is damaged: a parameter has no tensor")
    return data


def _read_zip(file: IO[bytes], path: Path) -> Any:
    size = path.stat().st_size
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if sum(entry.file_size for entry in archive.infolist()) > MAX_INFLATED * size:
            raise PickleError("it is far larger unpacked than packed")
        main = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
        if main is None:
            raise PickleError("it is a zip file, but none of torch.save: it has no data.pkl")
        root = main.removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise PickleError("it is a TorchScript archive; save model.state_dict() instead")

        def fetch(key: str, count: int, itemsize: int) -> Tensor:
            entry = entries.get(f"{root}data/{key}")
            if entry is None or entry.file_size < count * itemsize:
                raise PickleError(f"it is damaged: data/{key[:40]} is missing or too short")
            return _read_entry(archive, entry)

        order = entries.get(f"{root}byteorder")
        written = sys.byteorder.encode() if order is None else _content(archive, order)
        if written != sys.byteorder.encode():
            raise PickleError(
                "it was written on a machine of another byte order; save it as safetensors there"
            )
        data = _content(archive, entries[main])
        check_opcodes(data)
        return _Unpickler(data, fetch).load()


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    return _read_entry(archive, entry).numpy().tobytes()


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Tensor:
    """The bytes of a file in the archive, (N,) uint8, by their checksum."""
    data = torch.empty(entry.file_size, dtype=torch.uint8)
    buffer, done, checksum = memoryview(data.numpy().data), 0, 0
    wanted, entry.CRC = entry.CRC, None  # type: ignore[assignment]  # zipfile's own is slower
    with archive.open(entry) as member:
        while done < len(buffer):
            piece = member.read(min(CHUNK, len(buffer) - done))
            if not piece:
                raise PickleError(f"it is truncated in {entry.filename[:80]}")
            buffer[done : done + len(piece)] = piece
            checksum = zlib.crc32(piece, checksum)
            done += len(piece)
    entry.CRC = wanted
    # torch.save without checksums writes 0
    if checksum != wanted and wanted:
        raise PickleError(f"{entry.filename[:80]} in it is damaged: its checksum is wrong")
    return data


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    size = path.stat().st_size
    # pickles in a row, then the keys of storages, then the storages in that order
    with mapped(file) as data:
        ends = [0]
        for _ in range(HEADERS + 2):
            ends.append(check_opcodes(data, ends[-1]))
        if data[: ends[1]] != LEGACY:
            raise PickleError("it is not a file of torch.save")
        keys = PlainUnpickler(data[ends[-2] : ends[-1]], "utf-8").load()
        # what the content asks for, as sizes are known only while it is read
        storages: dict[str, tuple[int, Tensor]] = {}
        left = size - ends[-1]

        def fetch(key: str, count: int, itemsize: int) -> Tensor:
            nonlocal left
            left -= count * itemsize
            if left < 0:
                raise PickleError("it is truncated, or declares more data than it has")
            storages[key] = count, torch.empty(count * itemsize, dtype=torch.uint8)
            return storages[key][1]

        values = _Unpickler(data[ends[HEADERS] : ends[-2]], fetch).load()
        at = ends[-1]
        for key in keys if isinstance(keys, list) else []:
            if key not in storages:
                raise PickleError("it is damaged: its list of storages is another")
            count, storage = storages.pop(key)
            end = at + COUNT + storage.numel()
            if end > size or int.from_bytes(data[at : at + COUNT], "little") != count:
                raise PickleError("it is truncated, or a storage has another size")
            memoryview(storage.numpy().data)[:] = data[at + COUNT : end]
            at = end
        if storages:
            raise PickleError("it is damaged: its list of storages is another")
    return values
