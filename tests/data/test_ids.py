"""Ids in the forms that files write them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from resdet.data.ids import IdRows, as_id
from resdet.files.json import shown, whole_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, 5),
        (5.0, 5),
        ("5", 5),
        (" -5 ", -5),
        ("0042", 42),
        (-0.0, 0),
        (np.int64(5), 5),
        (np.float32(5), 5),
        (np.array([5]), 5),
        (torch.tensor(5), 5),
        *(
            (value, None)
            for value in (5.5, "5.0", "x", "", True, np.bool_(True), None, [5], {}, "٣")
        ),
        *((value, None) for value in (math.nan, math.inf, 2**54, 1e300, "9" * 30, np.arange(3))),
    ],
)
def test_whole_numbers(value: Any, expected: int | None) -> None:
    assert whole_number(value) == expected
    assert type(whole_number(value)) in (int, type(None))


def test_ids_are_whole_numbers_or_text() -> None:
    for value, expected in ((7, 7), (7.0, 7), ("7", "7"), ("a b", "a b"), (2**70, 2**70)):
        assert as_id(value) == expected
    for value in (True, None, 7.5, "", [7], {"id": 7}, math.nan, 10**5000):
        assert as_id(value) is None


def test_rows_by_number_and_by_text() -> None:
    rows = IdRows({1: 0, "2": 1, "a": 2, 3: 3, "3": 4, 2**70: 5})
    keys = [1, 1.0, "1", "01", 2, "2", "a", 3, "3", 3.0, True, None, [1], math.nan, 1.5, 10**5000]
    found, other = rows.find([*keys, str(2**70), "A"])
    # 3.0 may be 3 or "3": no row
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 4, -1, -1, -1, -1, -1, -1, -1, 5, -1]
    marked = [key for key, is_other in zip(keys, other.tolist(), strict=False) if is_other]
    assert marked == [1.0, "1", "01", 2] and bool(other[16])
    empty, _ = rows.find([])
    assert len(empty) == 0 and IdRows({}).find([1])[0].tolist() == [-1]


def test_values_in_messages_are_short() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, "x" * 10_000, [1] * 10_000, {str(i): i for i in range(99)}, 10**4000):
        assert len(shown(value)) < 200
    assert shown(10**5000) == "a int of thousands of digits"
    assert shown("\ud800") == r"'\ud800'"
