"""The quick ways of reading say and give what the slow ones do."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resdet.errors import UserError
from resdet.files.json import collector_paused, read_json
from resdet.files.rle import to_rle


@pytest.mark.parametrize(
    "text",
    [
        "[1, -0, 2.5e-7, 0.1, 473.0729064941406, 1e400, 123456789012345678901234567890]",
        '{"a": 1, "a": 2, "": [], "é": "\\u00e9\\ud83d\\ude00\\n"}',
        "[NaN, Infinity, -Infinity, true, false, null]",
        ' {"half": "\\ud800"} ',
        "[[[]], {}]\r\n",
    ],
)
def test_the_quick_parser_reads_what_json_reads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode())
    found, expected = read_json(path, "words"), json.loads(text)
    assert repr(found) == repr(expected)


def test_floats_are_read_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = [*rng.uniform(0, 640, 3000).tolist(), *(10.0 ** rng.uniform(-300, 300, 1000)).tolist()]
    values += np.float32(values[:1000]).astype(float).tolist()
    path = tmp_path / "a.json"
    path.write_text(json.dumps(values))
    assert read_json(path, "words") == values


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b'["\xe9"]', b"[" * 100_000, b"9" * 5000], ids=[*"abcd"]
)
def test_text_that_no_parser_reads(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.json: cannot be read as a JSON text file"):
        read_json(path, "words")


@pytest.mark.parametrize("path", ["\ud800", "\0", "a" * 5000])
def test_paths_that_no_file_has(path: str) -> None:
    with pytest.raises(UserError, match="cannot be read as a JSON text file"):
        read_json(path, "words")


def test_the_collector_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), collector_paused():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with collector_paused():
            pass
        assert not gc.isenabled(), "who had it off finds it off"
    finally:
        gc.enable()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e7, -1e7, 10**400, "5", None])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_bad_coordinate_is_found_wherever_it_is(bad: Any, place: int) -> None:
    polygon: list[Any] = [1, 2.5, 3, 1, 4, 4, 1, 4]
    to_rle([polygon], (9, 9), "a mask")
    polygon[place] = bad
    with pytest.raises(UserError, match="a coordinate that is not a number within"):
        to_rle([polygon], (9, 9), "a mask")
