"""Reads JSON files and single masks, with errors that name the file, the line or the item."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils
from pydantic_core import from_json

from resdet.errors import UserError
from resdet.evaluation.rle_code import are_rle_codes

Rle = dict[str, Any]

MAX_COORDINATE = 1e6
"""Pixels; pycocotools takes memory for each one that an outline passes, inside the image or not."""


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
    """The content of a JSON file; UserError names the file and the line that is wrong."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {what} were expected there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a JSON text file: {error}") from None
    try:
        # twice as fast as json; strings other than keys hardly repeat
        return from_json(content, cache_strings="keys")
    except ValueError:
        pass  # json knows the line, and takes what is not strictly JSON
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as a JSON text file: {error}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            "was the file cut short, or is it another format?"
        ) from None


def some(values: Iterable[Any], limit: int = 5) -> str:
    """The first values as text, with the number of those left out."""
    listed = list(values)
    text = ", ".join(repr(value) for value in listed[:limit])
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit} more"


def to_rle(segmentation: Any, size: tuple[int, int] | None, item: str) -> Rle:
    """Compressed RLE of polygons (a list of flat xy lists in pixels), or of either kind of RLE.

    `size` is the image's (height, width). An empty list gives an empty mask. Raises UserError,
    naming `item`, for what is neither, and for an RLE of another size than its image.
    """
    if isinstance(segmentation, dict):
        try:
            height, width = (int(v) for v in segmentation["size"])
            counts = segmentation["counts"]
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UserError(
                f'{item}: an RLE needs "size" [height, width] and "counts"; it has '
                f"{sorted(segmentation)}"
            ) from None
        if size is not None and (height, width) != size:
            raise UserError(
                f"{item}: its mask is {height}×{width} (height × width), its image "
                f"{size[0]}×{size[1]}; encode masks at the original image size"
            )
        if isinstance(counts, list):
            if not all(isinstance(count, int) and count >= 0 for count in counts):
                raise UserError(f"{item}: the counts of its RLE are not whole numbers from 0")
            if sum(counts) != height * width:
                raise UserError(f"{item}: the counts of its RLE do not add up to its size")
            return mask_utils.frPyObjects(segmentation, height, width)
        if not isinstance(counts, str | bytes):
            raise UserError(f"{item}: RLE counts must be a list or a string")
        code = counts.encode() if isinstance(counts, str) else counts
        if not are_rle_codes([code], [height * width]):
            raise UserError(
                f"{item}: the counts of its RLE are broken, or do not add up to its size; encode "
                "the mask again"
            )
        return {"size": [height, width], "counts": counts}
    if not isinstance(segmentation, list):
        raise UserError(f"{item}: segmentation must be polygons (a list) or an RLE (an object)")
    if size is None:
        raise UserError(
            f"{item}: polygons need the height and width of their image; "
            "add them to the ground truth's images, or evaluate kinds=bbox"
        )
    # Fewer than three points enclose nothing, and pycocotools reads four numbers as a box.
    polygons = [p for p in segmentation if isinstance(p, list) and len(p) >= 6]
    if not polygons:
        empty = {"size": list(size), "counts": [size[0] * size[1]]}
        return mask_utils.frPyObjects(empty, *size)
    if any(len(p) % 2 for p in polygons):
        raise UserError(f"{item}: a polygon has an odd number of coordinates")
    if not all(map(_are_coordinates, polygons)):
        raise UserError(
            f"{item}: a polygon has a coordinate that is not a number within "
            f"±{MAX_COORDINATE:,.0f} pixels"
        )
    rles = mask_utils.frPyObjects(polygons, *size)
    return rles[0] if len(rles) == 1 else mask_utils.merge(rles)


def _are_coordinates(values: Sequence[Any]) -> bool:
    if set(map(type, values)) <= {int, float}:
        # min and max may pass over a NaN, the sum does not
        within = min(values) >= -MAX_COORDINATE and max(values) <= MAX_COORDINATE
        return within and math.isfinite(sum(values))
    return all(isinstance(v, int | float) and abs(v) <= MAX_COORDINATE for v in values)


def are_compressed(segmentations: Sequence[Any], sizes: Sequence[list[int] | None]) -> bool:
    """Whether all are what `to_rle` would return: compressed RLE of their images' [height, width].

    False says nothing about which one differs, or whether it is wrong.
    """
    if set(map(type, segmentations)) != {dict}:
        return False
    try:
        found = list(map(itemgetter("size"), segmentations))
        codes = list(map(itemgetter("counts"), segmentations))
    except KeyError:
        return False
    if found != sizes or set(map(type, chain.from_iterable(found))) != {int}:
        return False
    if set(map(type, codes)) != {str}:
        return False
    pixels = [height * width for height, width in found]
    return are_rle_codes([code.encode() for code in codes], pixels)
