"""torch's files: the tensors that torch wrote, and nothing that crashes, runs or is too large."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.serialization import set_crc32_options

from resdet.files.pickles import PickleError
from resdet.files.torch_files import LEGACY, Foreign, read_torch

BASE = torch.arange(12, dtype=torch.float32)
TENSORS = {
    "view": BASE[2:8].reshape(2, 3),
    "turned": BASE.reshape(3, 4).T,
    "the same": BASE,
    "last": nn.Parameter(torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)),
    "half": torch.tensor([0.5, 2], dtype=torch.float16),
    "brain": torch.tensor([0.5, 2], dtype=torch.bfloat16),
    "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "count": torch.tensor(3),
    "none": torch.zeros(0, 3),
    "unsigned": torch.tensor([7], dtype=torch.uint16),
}
PLAIN = {
    "names": ["cat", "é"],
    "more": (1, 2.5, None, True, {"a": {1, 2}}),
    "size": torch.Size([2, 3]),
    "number": np.float64(0.25),
    "array": np.arange(3.0),
    "ordered": collections.OrderedDict(b=1, a=2),
}


def bytes_of(values: Any, *, is_zip: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(values, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def read(tmp_path: Path, content: bytes) -> Any:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    return read_torch(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_torch_wrote(tmp_path: Path, is_zip: bool) -> None:
    found = read(tmp_path, bytes_of({"tensors": TENSORS, "plain": PLAIN}, is_zip=is_zip))
    for key, tensor in TENSORS.items():
        other = found["tensors"][key]
        assert (other.dtype, other.stride()) == (tensor.dtype, tensor.stride())
        assert torch.equal(other, tensor.data)
    assert found["tensors"]["view"].untyped_storage().nbytes() == 48
    plain = found["plain"]
    assert np.array_equal(plain.pop("array"), PLAIN["array"])
    assert plain == {key: value for key, value in PLAIN.items() if key != "array"}


class Odd:
    """A class of the writer's own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


FOREIGN = {
    "args": argparse.Namespace(lr=0.1, path=Path("x")),
    "path": Path("a"),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "texts": np.array(["a", None]),
    "type": np.dtype("float32"),
    "default": collections.defaultdict(list, a=[1]),
    "own": Odd([Odd(1), torch.zeros(2)]),
    "keys": {Odd(2): 1},
    "function": os.system,
    "activation": nn.GELU(),
    "device": torch.device("cuda"),
    "generator": np.random.default_rng(0),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", FOREIGN)
def test_objects_beside_tensors(tmp_path: Path, name: str, is_zip: bool) -> None:
    values = {"model": {"w": BASE}, name: FOREIGN[name]}
    assert torch.equal(read(tmp_path, bytes_of(values, is_zip=is_zip))["model"]["w"], BASE)


def test_a_whole_network_is_named(tmp_path: Path) -> None:
    found = read(tmp_path, bytes_of(nn.Sequential(nn.Linear(2, 2))))
    assert isinstance(found, Foreign)
    assert "whole network, torch.nn.modules.container.Sequential" in found.advice
    assert "state_dict" in found.advice


def test_without_checksums(tmp_path: Path) -> None:
    set_crc32_options(False)
    try:
        content = bytes_of({"w": BASE})
    finally:
        set_crc32_options(True)
    assert torch.equal(read(tmp_path, content)["w"], BASE)


def test_a_changed_number_is_noticed(tmp_path: Path) -> None:
    content = bytearray(bytes_of({"w": BASE}))
    content[content.index(BASE.numpy().tobytes()) + 7] ^= 1
    with pytest.raises(PickleError, match="data/0 in it is damaged: its checksum is wrong"):
        read(tmp_path, bytes(content))


NEW = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\4tQ"


def crafted(pickled: bytes) -> bytes:
    """A zip of torch with another pickle; its storage 0 has four floats."""
    plain, out = zipfile.ZipFile(io.BytesIO(bytes_of({"w": torch.zeros(4)}))), io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in plain.namelist():
            data = b"\x80\2" + pickled if name.endswith("data.pkl") else plain.read(name)
            archive.writestr(name, data)
    return out.getvalue()


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    return NEW + b"(" + STORE + offset + size + stride + b"\x89}tR"


MANY = b"(" + b"K\1" * 65 + b"t"
DEEP = b")" + b"\x85" * 90
HOSTILE = {
    "size of shapes in shapes": (
        DEEP + b"q\1" + (b"0ctorch\nSize\nh\1\x85R" + b"\x85" * 90 + b"q\1") * 3 + b"h\1\x85.",
        "no shape",
    ),
    "parameter of a tuple": (b"ctorch._utils\n_rebuild_parameter\n(" + DEEP + b"\x89Nt.R.", None),
    "parameter of a deep tuple": (
        b"ctorch._utils\n_rebuild_parameter\n(" + DEEP + b"\x89NtR.",
        "a parameter has no tensor",
    ),
    "too large": (tensor(b"K\0", b"K\5\x85", b"K\1\x85") + b".", "too few numbers"),
    "offset": (tensor(b"K\1", b"K\4\x85", b"K\1\x85") + b".", "too few numbers"),
    "negative stride": (tensor(b"K\3", b"K\4\x85", b"J\xff\xff\xff\xff\x85") + b".", "no shape"),
    "negative offset": (tensor(b"J\xff\xff\xff\xff", b"K\1\x85", b"K\1\x85") + b".", "no shape"),
    "overflow": (tensor(b"K\0", b"\x8a\x09" + b"\xff" * 8 + b"\0\x85", b"K\0\x85") + b".", "shape"),
    "boolean": (tensor(b"K\0", b"\x88\x85", b"K\1\x85") + b".", "no shape"),
    "text": (tensor(b"K\0", b"X\1\0\0\0a", b"K\1\x85") + b".", "no shape"),
    "dimensions": (tensor(b"K\0", MANY, MANY) + b".", "no shape"),
    "other storage": (STORE.replace(b"\x000X", b"\x001X") + b".", "data/1 is missing"),
    "storage of a path": (STORE.replace(b"X\1\0\0\x000", b"X\7\0\0\0../../0") + b".", "missing"),
    "large storage": (STORE.replace(b"K\4tQ", b"K\5tQ") + b".", "too short"),
    "negative storage": (STORE.replace(b"K\4tQ", b"J\xff\xff\xff\xfftQ") + b".", "no key or size"),
    "no storage": (b"K\1Q.", "outside of itself"),
    "itself": (b"]q\1h\1a.", "in themselves"),
    "lists in lists": (b"]" * 500 + b"a" * 499 + b".", "more than 100"),
    "a billion laughs": (b"]q\0" + (b"(" + b"h\0" * 10 + b"lq\0") * 30 + b".", "values"),
    "number": (b"\x8a\x20" + b"\x7f" * 32 + b"\x85.", "integer of"),
    "names": (b"".join(b"ca\nb%d\n0" % i for i in range(1001)) + b"N.", "kinds of Python objects"),
    "state of a dict": (b"ccollections\nOrderedDict\n)R}X\5\0\0\0itemsK\1sb.", None),
    "a function changed": (b"ctorch\nSize\nN}X\1\0\0\0aK\1s\x86b.", "changes a function"),
    "a type of numbers changed": (b"ctorch\nfloat32\n}X\1\0\0\0aK\1sb.", "damaged"),
    "call of a type": (b"ctorch\nfloat32\n)R.", "damaged"),
    "subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n)R.", "damaged"),
    "tensor without storage": (NEW + b"(K\1K\0K\1\x85K\1\x85\x89}tR.", None),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content(tmp_path: Path, name: str) -> None:
    pickled, words = HOSTILE[name]
    if words is None:
        repr(read(tmp_path, crafted(pickled)))
        return
    with pytest.raises(PickleError, match=words):
        read(tmp_path, crafted(pickled))


def test_a_pickle_before_a_zip_is_a_pickle(tmp_path: Path) -> None:
    harmless = bytes_of({"w": BASE})
    deep = b"\x80\2}(" + b")" + b"\x85" * 500_000 + b"K\1u."
    for head in (deep, LEGACY + deep, LEGACY * 3 + deep):
        with pytest.raises(PickleError):
            read(tmp_path, head + harmless)


def test_members_of_the_zip(tmp_path: Path) -> None:
    whole = zipfile.ZipFile(io.BytesIO(bytes_of({"w": BASE, "v": BASE + 1})))

    def changed(drop: str = "", **others: bytes) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for name in whole.namelist():
                if name.rpartition("/")[2] != drop:
                    short = name.rpartition("/")[2].replace(".", "_")
                    archive.writestr(name, others.get(short, whole.read(name)))
            for name in ("constants_pkl",):
                if name in others:
                    archive.writestr("archive/constants.pkl", others[name])
        return out.getvalue()

    for content, words in (
        (changed(drop="data.pkl"), "no data.pkl"),
        (changed(drop="1"), "data/1 is missing"),
        (changed(byteorder=b"big"), "another byte order"),
        (changed(byteorder=b""), "another byte order"),
        (changed(data_pkl=b""), "truncated"),
        (changed(constants_pkl=b"x"), "TorchScript"),
    ):
        with pytest.raises(PickleError, match=words):
            read(tmp_path, content)
    assert torch.equal(read(tmp_path, changed(drop="version"))["w"], BASE)


@pytest.mark.parametrize("is_zip", [True, False])
def test_every_truncation_and_random_bytes(tmp_path: Path, is_zip: bool) -> None:
    content = bytes_of({"model": {"w": BASE}, "args": argparse.Namespace(a=1)}, is_zip=is_zip)
    for end in range(0, len(content), 19):
        with pytest.raises(PickleError):
            read(tmp_path, content[:end])
    chance = random.Random(0)
    for _ in range(120):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            read(tmp_path, bytes(changed))
        except PickleError as error:
            assert str(error).startswith("it ") or "in it" in str(error)


def test_what_was_read_can_be_saved(tmp_path: Path) -> None:
    found = read(tmp_path, bytes_of(nn.Linear(2, 2).state_dict()))
    assert torch.load(io.BytesIO(bytes_of(found)), weights_only=True).keys() == found.keys()
    assert pickle.loads(pickle.dumps(found)).keys() == found.keys()
