"""Npz files whose arrays are larger than memory: read through a memory map, written in pieces.

An npz is a zip of npy files. Where its members are stored and not compressed, as `np.savez` writes
them, each array is a range of bytes of the file, which the operating system can map.
"""

import shutil
import tempfile
import tokenize
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from resdet.files.findings import DataError
from resdet.files.writing import open_atomic

LOCAL_HEADER = 30
"""Bytes of a zip member's local header before its name and extra field (APPNOTE.TXT, 4.3.7)."""
COPIED = 1 << 22
"""Bytes copied at a time."""


def map_npz(path: str | Path, what: str) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file by name, read-only and mapped: only what is used is read.

    `what` says in messages what was expected there.

    Raises:
        DataError: the file is missing, damaged or compressed, or has Python objects in it.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return {
                info.filename.removesuffix(".npy"): _map_member(path, file, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {what} were expected there") from None
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(
            f"{path}: cannot be read as an npz file ({error}); was it cut short, or is it another "
            "format?"
        ) from None


def _map_member(path: Path, file: IO[bytes], info: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of the archive, from the bytes of its npy file."""
    name = f"{path}: {info.filename.removesuffix('.npy')}"
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise DataError(
            f"{name}: is compressed, and cannot be mapped into memory; write the file with "
            "np.savez instead of np.savez_compressed"
        )
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER)
    extra = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    start = info.header_offset + LOCAL_HEADER + extra
    file.seek(start)
    try:
        shape, order, dtype = _read_header(file)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError) as error:
        raise DataError(f"{name}: not an npy array ({error}); write the file again") from None
    begin = file.tell()
    if dtype.hasobject:
        raise DataError(f"{name}: holds Python objects; store plain numbers or text")
    if any(side < 0 for side in shape) or order:
        raise DataError(f"{name}: shape {shape} in Fortran order; store it in C order")
    size = dtype.itemsize
    for side in shape:  # Python's integers: the product may pass 64 bits
        size *= side
    end = Path(path).stat().st_size
    if begin - start + size != info.file_size or begin + size > end:
        raise DataError(f"{name}: shorter or longer than its shape {shape}; write the file again")
    if not size:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", begin, shape)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and type of the npy file that starts here."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"npy version {version[0]}.{version[1]}")


class Spool:
    """An array that grows row by row in a temporary file.

    Args:
        folder: where the temporary file is; it needs the space of the array.
        dtype: type of the array.
        row: shape of a row.
    """

    def __init__(self, folder: Path, dtype: type[np.generic], *row: int) -> None:
        self.dtype, self.row, self.length = np.dtype(dtype), row, 0
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by `close`

    def extend(self, values: NDArray[Any]) -> None:
        """Adds (n, *row) values."""
        rows = np.ascontiguousarray(values, self.dtype)
        assert rows.shape[1:] == self.row, (rows.shape, self.row)
        self._file.write(rows.data if rows.size else b"")
        self.length += len(rows)

    def copy_to(self, out: IO[bytes]) -> None:
        """Writes all rows as an npy file."""
        shape = (self.length, *self.row)
        descr = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(
            out, {"descr": descr, "fortran_order": False, "shape": shape}
        )
        self._file.seek(0)
        shutil.copyfileobj(self._file, out, COPIED)

    def close(self) -> None:
        self._file.close()


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[Any] | Spool]) -> Path:
    """Writes arrays and spools as an uncompressed npz, atomically; OSError where the disk
    refuses."""
    with (
        open_atomic(path, "wb") as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(values, Spool):
                    values.copy_to(member)
                else:
                    np.lib.format.write_array(member, values, allow_pickle=False)
    return Path(path)
