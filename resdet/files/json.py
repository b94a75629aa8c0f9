"""Reads JSON files and single masks, with errors that name the file, the line or the item."""

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from resdet.files.findings import DataError


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
    except OSError as error:
        raise DataError(f"{path}: cannot be read as a JSON text file: {error}") from None
    try:
        # twice as fast as json; strings other than keys hardly repeat
        return from_json(content, cache_strings="keys")
    except ValueError:
        pass  # json knows the line, and takes what is not strictly JSON
    try:
        return json.loads(content.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            "was the file cut short, or is it another format?"
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, or thousands of digits or brackets
        raise DataError(f"{path}: cannot be read as a JSON text file: {error}") from None


def some(values: Iterable[Any], limit: int = 5) -> str:
    """The first values as text, with the number of those left out."""
    listed = list(values)
    text = ", ".join(repr(value) for value in listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"
