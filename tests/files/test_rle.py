"""Tests of resdet.files.rle: against pycocotools' codes, and by hand."""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from resdet.files.rle import encode_bitmap, encode_labels, measure_codes
from resdet.ops.runs import read_runs


def write_code(counts: list[int]) -> bytes:
    """The code of `counts`, also of ones that no mask has."""
    code = []
    for place, count in enumerate(counts):
        number = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            digit = number & 31
            number >>= 5
            more = number != (-1 if digit & 16 else 0)
            code.append(48 + digit + 32 * more)
    return bytes(code)


def measure(codes: list[bytes], pixels: list[int]) -> list[int]:
    code = np.frombuffer(b"".join(codes), np.uint8)
    return measure_codes(code, np.array([*map(len, codes)], int), np.array(pixels, int)).tolist()


def make_masks(count: int) -> tuple[list[bytes], list[int]]:
    """Noise of all densities in masks of up to 700 pixels a side, some of them empty or full."""
    rng = np.random.default_rng(0)
    codes, pixels = [], []
    for index in range(count):
        height, width = (int(side) for side in rng.integers(1, 700, 2))
        grown = np.repeat(rng.random((height // 9 + 1, width)), 9, axis=0)[:height]
        mask = np.asfortranarray(grown < (index % 8) / 7, dtype=np.uint8)
        codes.append(mask_utils.encode(mask)["counts"])
        pixels.append(height * width)
    return codes, pixels


def test_codes_of_pycocotools() -> None:
    codes, pixels = make_masks(150)
    areas = [
        int(mask_utils.area({"size": [total, 1], "counts": code}))
        for code, total in zip(codes, pixels, strict=True)
    ]
    assert measure(codes, pixels) == areas
    for place in range(0, len(codes), 7):
        assert measure([codes[place]], [pixels[place]]) == [areas[place]]
        for wrong in (-1, 1):
            changed = [*pixels]
            changed[place] += wrong
            expected = [*areas]
            expected[place] = -1
            assert measure(codes, changed) == expected
    assert measure([], []) == []


@pytest.mark.parametrize(
    "counts",
    [[9], [0, 9], [3, 6], [3, 4, 2], [1, 2, 3, 3], [1, 0, 1, 7], [0, 3, 0, 0, 6], [1] * 9],
)
def test_runs_by_hand(counts: list[int]) -> None:
    code = write_code(counts)
    listed = mask_utils.frPyObjects({"size": [3, 3], "counts": counts}, 3, 3)
    assert code == listed["counts"]
    area = sum(counts[1::2])
    assert measure([code, code, code], [9, 8, 9]) == [area, -1, area]
    runs, bounds = read_runs(np.frombuffer(code + code, np.uint8), np.arange(3) * len(code))
    assert runs.tolist() == counts + counts
    assert bounds.tolist() == [0, len(counts), 2 * len(counts)]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(b"", id="none"),
        pytest.param(write_code([4, 4]), id="short"),
        pytest.param(write_code([4, 6]), id="long"),
        pytest.param(write_code([5, -1, 5]), id="a negative run"),
        pytest.param(write_code([1, 5, 4, -1]), id="a negative run in the end"),
        pytest.param(write_code([9]) + b"P", id="cut within a number"),
        pytest.param(b"9!", id="a character below"),
        pytest.param(b"9p", id="a character above"),
        pytest.param(b"YPPPPPPPPPPP0", id="a number of too many digits"),
        pytest.param(write_code([9 + (1 << 32)]), id="more than 32 bits"),
        pytest.param(write_code([9 + (1 << 64)]), id="more than 64 bits"),
    ],
)
def test_what_is_no_code(code: bytes) -> None:
    good = write_code([9])
    assert measure([code], [9]) == [-1]
    assert measure([good, code, good, code], [9] * 4) == [0, -1, 0, -1]


def test_codes_of_labels_and_bitmaps_are_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for turn in range(100):
        height, width = (int(side) for side in rng.integers(1, 12, 2))
        dtype = [np.uint8, np.uint16, np.int32][turn % 3]
        labels = rng.integers(0, 4, (height, width)).astype(dtype)
        labels[:] = labels[0, 0] if turn % 5 == 0 else labels
        values, codes = encode_labels(labels)
        assert values == [value for value in np.unique(labels).tolist() if value]
        for value, code in zip(values, codes, strict=True):
            mask = np.asfortranarray((labels == value).astype(np.uint8))
            assert mask_utils.encode(mask)["counts"] == code
        top, left = (int(place) for place in rng.integers(-3, 5, 2))
        whole = np.zeros((14, 13), np.uint8)
        for y, x in zip(*np.nonzero(labels), strict=True):
            if 0 <= y + top < 14 and 0 <= x + left < 13:
                whole[y + top, x + left] = 1
        expected = mask_utils.encode(np.asfortranarray(whole))["counts"]
        assert encode_bitmap(labels, top, left, whole.shape) == expected
