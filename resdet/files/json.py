"""Reads JSON files and single values, with errors that name the file, the line or the item."""

import gc
import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from resdet.files.findings import DataError

LARGEST_WHOLE = 2**53
"""Beyond it floats skip whole numbers."""

DIGITS = re.compile(r"[-+]?[0-9]{1,15}")

OTHERS = {
    b"\x1f\x8b": "is packed by gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive; unpack it first",
    b"BZh": "is packed by bzip2; unpack it first",
    b"\xfd7zXZ": "is packed by xz; unpack it first",
    b"version https://git-lfs": "is a pointer of Git LFS; get the file itself by `git lfs pull`",
    b"<": "is HTML or XML; give the JSON file itself, not a page about it",
}
"""What a file is by its first bytes, and what to do about it."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Python's search for reference cycles stopped inside; records of JSON have none.

    It walks all records again whenever some more were made: half the time of reading 500,000.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@collector_paused()
def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file; DataError names the file and the line that is wrong."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {what} were expected there") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; give the file in it that has the {what}") from None
    except (OSError, ValueError) as error:  # ValueError: what no path can hold
        raise DataError(f"{path}: cannot be read as a JSON text file: {error}") from None
    try:
        # twice as fast as json; strings other than keys hardly repeat
        return from_json(content.removeprefix(b"\xef\xbb\xbf"), cache_strings="keys")
    except ValueError:
        pass  # json knows the line, and takes what is not strictly JSON
    for start, other in OTHERS.items():
        if content.startswith(start):
            raise DataError(f"{path}: {other}")
    try:
        # UTF-16 and UTF-32 too, as some shells write them
        return json.loads(content.decode(json.detect_encoding(content), "surrogatepass"))
    except json.JSONDecodeError as error:
        hint = "was the file cut short, or is it another format?"
        if not content.strip():
            hint = "the file is empty; write it again"
        elif error.msg == "Extra data":
            hint = "one object per line is another format: write one list or object"
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            f"{hint}"
        ) from None
    except RecursionError:
        raise DataError(
            f"{path}: cannot be read as a JSON text file: its brackets are nested too deeply"
        ) from None
    except ValueError as error:  # not UTF-8, or thousands of digits
        raise DataError(f"{path}: cannot be read as a JSON text file: {error}") from None


def whole_number(value: Any) -> int | None:
    """The whole number that a value stands for: 5, 5.0 or "5", numpy's too; None for any other,
    for true and false, and beyond ±`LARGEST_WHOLE`."""
    if isinstance(value, str):
        text = value.strip()
        return int(text) if DIGITS.fullmatch(text) else None
    if type(value) not in (int, float):
        value = plain_number(value)
    if value is None:
        return None
    return int(value) if abs(value) <= LARGEST_WHOLE and value == int(value) else None


def plain_number(value: Any) -> int | float | None:
    """Python's number for a number of numpy or torch, or an array of one; None for what is none."""
    if not isinstance(value, (int, float)) and hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError, TypeError):  # of several values
            return None
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else value


def to_numbers(values: Any) -> list[float]:
    """A list of finite numbers, or an array of numpy or torch, as floats; empty for others."""
    if not isinstance(values, (list, tuple)):
        values = values.tolist() if hasattr(values, "tolist") else None
    try:
        numbers = [float(plain_number(value)) for value in values]  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxtuple = 3, 8, 4, 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 60


def shown(value: Any) -> str:
    """A value of a file in a message, shortened; also one of many levels or digits."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python writes no whole number of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"


def some(values: Iterable[Any], limit: int = 5) -> str:
    """The first values as text, with the number of those left out."""
    listed = list(values)
    text = ", ".join(map(shown, listed[:limit]))
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"
