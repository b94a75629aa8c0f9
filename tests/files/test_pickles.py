"""Pickles of arrays and plain containers: what is read, what is refused, and with which words."""

from __future__ import annotations

import collections
import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.errors import UserError
from resdet.files.pickles import PickleError, load_plain, read_pickle

PLAIN: dict[str, Any] = {
    "author": "Modellzoo",
    "é": (1, (2.5, None), 2**70, True),
    "sets": [{1, 2}, frozenset("ab")],
    "bytes": [b"", b"\xff\x00"],
    "ordered": collections.OrderedDict(b=1, a=2),
}
ARRAYS = {
    "weight": np.linspace(-1, 1, 3000, dtype=np.float32).reshape(20, 150),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "columns_first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">f4"),
    "count": np.array(7),
    "scalar": np.float32(0.1),
    "none": np.zeros((0, 3), np.uint8),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_comes_back(protocol: int) -> None:
    found = load_plain(pickle.dumps({"model": ARRAYS, "rest": PLAIN}, protocol))
    assert found["rest"] == PLAIN
    for name, array in ARRAYS.items():
        read = found["model"][name]
        assert read.dtype == pickle.loads(pickle.dumps(array, protocol)).dtype
        assert read.shape == array.shape
        assert np.array_equal(read, array), name


def test_an_array_twice_is_one_array() -> None:
    a, b = load_plain(pickle.dumps([ARRAYS["weight"]] * 2))
    assert a is b


def test_python_2(tmp_path: Path) -> None:
    """As cPickle wrote it: strings of 8 bits, numpy's old modules, the shape as longs."""
    raw = np.array([1.5, -2.0], "<f4").tobytes()
    text = (
        b"\x80\x02}q\x01U\x04blobq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01\x8a\x01\x02\x85cnumpy\ndtype\nq\x06U\x02f4K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x08"
        + raw
        + b"tbs."
    )
    (tmp_path / "R-50.pkl").write_bytes(text)
    assert read_pickle(tmp_path / "R-50.pkl")["blob"].tolist() == [1.5, -2.0]
    # encoding "bytes" leaves strings as they are
    assert load_plain(text, encoding="bytes")[b"blob"].tolist() == [1.5, -2.0]


class Calls:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Calls(os.system, "touch proof"), "posix.system"),
        (Calls(eval, "open('proof', 'w')"), "eval"),
        (Calls(Path.touch, Path("proof")), "getattr"),
        (torch.ones(2), "torch._utils._rebuild_tensor_v2"),
        (Path("a"), "pathlib"),
        ({"a": [np.random.default_rng]}, "numpy.random"),
        (np.array([None, 1]), "an array of Python objects"),
        (np.array(["a"]), "dtype 'U1'"),
        (np.zeros(2, [("x", "f4")]), "dtype 'V4'"),
        (np.array(["2020-01-01"], "datetime64[D]"), "dtype 'M8'"),
    ],
    ids=range(10),
)
def test_what_is_refused_is_named(
    content: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pkl").write_bytes(pickle.dumps({"model": content}, protocol=2))
    with pytest.raises(UserError) as caught:
        read_pickle("w.pkl")
    text = str(caught.value)
    assert text.startswith("w.pkl cannot be read as a pickle of weights: ")
    assert name in text and "refused" in text and "Download the file again" in text
    assert not Path("proof").exists()


# A dtype f4, and the head of an array's pickle, as protocol 2 has them.
F4 = b"cnumpy\ndtype\n(X\x02\0\0\0f4K\0K\1tR"
NEW = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\1btR"


def array(shape: bytes, raw: bytes) -> bytes:
    return NEW + b"(K\1" + shape + F4 + b"\x89" + raw + b"tb"


HOSTILE = {
    "persistent id": (b"\x80\2X\1\0\0\0aQ.", "data outside of itself"),
    "persistent id in a persistent id": (b"\x80\2(X\1\0\0\0aQQl.", "data outside of itself"),
    "persistent id in text": (b"P123\n.", "data outside of itself"),
    "huge array": (b"\x80\2" + array(b"\x8a\5\0\0\0\0\x7f\x85", b"C\0") + b".", "by its shape"),
    "negative shape": (b"\x80\2" + array(b"J\xff\xff\xff\xff\x85", b"C\0") + b".", "impossible"),
    "raw data that are none": (b"\x80\2" + array(b"K\1\x85", b"]") + b".", "and 0 are there"),
    "no dtype": (b"\x80\2" + NEW + b"(K\1K\1\x85N\x89C\4aaaatb.", "without a dtype"),
    "same bytes in many arrays": (
        b"\x80\2(C\xf8" + b"a" * 248 + b"q\0" + array(b"K\x3e\x85", b"h\0") * 30 + b"t.",
        "larger than the file",
    ),
    "bytes encoded in a ring": (
        b"\x80\2X\x40\0\0\0" + b"a" * 64 + b"q\0"
        + (b"c_codecs\nencode\n(h\0X\6\0\0\0latin1tR" * 30) + b".",
        "larger than the file",
    ),
    "another codec": (b"c_codecs\nencode\n(X\1\0\0\0aX\3\0\0\0hextR.", "encodes as 'hex'"),
    "place in the memo": (b"\x80\2K\1r\xff\xff\xff\x7f.", "memo"),
    "declared bytes": (b"\x80\4B\xff\xff\xff\x7fa.", "declares more data"),
    "declared text": (b"\x80\4\x8d\xff\xff\xff\xff\xff\0\0\0a.", "declares more data"),
    "declared frame": (b"\x80\4\x95\0\0\0\0\0\0\0\x10K\1.", "damaged|truncated"),
    "tuples in tuples": (b"\x80\2}(" + b")" + b"\x85" * 200_000 + b"K\1u.", "nests more than 100"),
    "tuples in tuples by the memo": (
        b"\x80\2}()" + b"".join(b"q%c0h%c\x85" % (i, i) for i in range(150)) + b"K\1u.",
        "nests more than 100",
    ),
    "lists in lists": (b"\x80\2" + b"]" * 20_000 + b"a" * 19_999 + b".", None),
    "a function changed": (b"cnumpy\ndtype\nN}X\1\0\0\0aK\1s\x86b.", "changes a function"),
    "the class of arrays changed": (b"cnumpy\nndarray\nN}X\1\0\0\0aK\1s\x86b.", "changes a"),
    "a set changed": (b"c__builtin__\nset\nN}X\3\0\0\0popK\1s\x86b.", "damaged"),
    "bytes without end": (b"c__builtin__\nbytes\n(\x8a\5\0\0\0\0\x7ftR.", "damaged"),
    "extension": (b"\x80\2\x82\1.", "extension registry"),
    "other module of the same name": (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
    "dotted name": (b"\x80\4\x8c\5numpy\x8c\x0endarray.tofile\x93.", "ndarray.tofile"),
    "empty stack": (b"\x80\2a.", "stack"),
    "text": (b"<html>404</html>", "damaged"),
    "empty": (b"", "truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(name: str) -> None:
    """Each is refused without a crash and without taking memory."""
    content, words = HOSTILE[name]
    tracemalloc.start()
    try:
        if words is None:
            load_plain(content)
        else:
            with pytest.raises(PickleError, match=words):
                load_plain(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20 + 200 * len(content)
    finally:
        tracemalloc.stop()
    # and nothing was left behind
    assert np.array_equal(load_plain(pickle.dumps(ARRAYS["weight"], 2)), ARRAYS["weight"])


def test_every_truncation_is_refused() -> None:
    content = pickle.dumps({"model": {"w": np.ones(20, "f4")}, "rest": PLAIN}, 2)
    for end in range(len(content)):
        with pytest.raises(PickleError):
            load_plain(content[:end])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pkl cannot be read: No such file"):
        read_pickle(tmp_path / "absent.pkl")
    with pytest.raises(UserError, match="Is a directory"):
        read_pickle(tmp_path)
