"""A look at image files before training: unreadable ones, and sizes that annotations get wrong."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from resdet.data.findings import DataError
from resdet.data.image import read_image


def image_problems(
    paths: Sequence[Path], sizes: Sequence[tuple[int, int]], *, decode: bool
) -> dict[int, str]:
    """What is wrong with each bad file, by its position; `sizes` are (height, width) as annotated.

    Reads the headers; with `decode` every pixel, which finds files that are cut short too.
    """
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        found = pool.map(lambda path, size: _problem(path, size, decode), paths, sizes)
        return {row: what for row, what in enumerate(found) if what is not None}


def _problem(path: Path, size: tuple[int, int], decode: bool) -> str | None:
    try:
        own = _decoded_size(path) if decode else _header_size(path)
        if own != size:
            own = _decoded_size(path)  # as its EXIF orientation turns it
    except (DataError, OSError, ValueError, SyntaxError) as error:
        return f"can't be read ({str(error).removeprefix(f'{path}: ')})"
    if own == size:
        return None
    return f"is {own[1]}×{own[0]} pixels upright, annotated as {size[1]}×{size[0]}"


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            width, height = image.size
            return height, width
    except UnidentifiedImageError:
        return _decoded_size(path)  # formats that OpenCV knows and Pillow does not


def _decoded_size(path: Path) -> tuple[int, int]:
    height, width, _ = read_image(path).shape
    return height, width
