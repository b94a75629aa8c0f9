"""Files of weights in every format as named tensors, and what they may not hold."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.interop.files import flat_state, read_file

STATE = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.tensor([0.5, 2], dtype=torch.float16),
    "brain": torch.tensor([0.5, 2], dtype=torch.bfloat16),
    "count": torch.tensor(3),
}


def read(path: Path) -> dict[str, Tensor]:
    return flat_state(read_file(path), path)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )


@pytest.mark.parametrize("name", ["w.pth", "w.bin", "old.pt", "w.safetensors"])
def test_formats(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=name != "old.pt")
    assert same(read(path), STATE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"{name} cannot be read as"):
        read(path)


@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_become_tensors(tmp_path: Path, protocol: int) -> None:
    """Half floats stay half, one number may stand for a tensor without dimensions."""
    arrays = {key: value.numpy() for key, value in STATE.items() if key != "brain"}
    arrays |= {"big_endian": np.arange(3, dtype=">f4"), "fixed": np.arange(3.0)}
    arrays["fixed"].flags.writeable = False
    content = {"model": {**arrays, "number": np.float32(2)}, "__author__": "someone"}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    expected = {key: value for key, value in STATE.items() if key != "brain"}
    expected |= {"big_endian": torch.arange(3.0), "fixed": torch.arange(3.0).double()}
    assert same(read(path), {**expected, "number": torch.tensor(2.0)})


def test_caffe2s_container(tmp_path: Path) -> None:
    blobs = {"conv1_w": np.ones(2), "conv1_w_momentum": np.ones(2), "lr": np.float32(1)}
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}))
    assert sorted(read(path)) == ["conv1_w", "lr"]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.empty(3, device="meta"), "empty tensor"),
        (torch.zeros(3, dtype=torch.complex64), "complex64, which no weights have"),
        (torch.zeros(1).expand(10**6, 10**6), "larger than the whole file"),
        (torch.zeros(3).to(torch.float8_e4m3fn), "float8"),
        ("text", "is a str, not a tensor"),
        ([torch.zeros(1)], "is a list, not a tensor"),
    ],
)
def test_what_no_weights_are(tmp_path: Path, value: Any, words: str) -> None:
    torch.save({"w": value}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=rf"w\.pt: '?w'? .*{words}"):
        read(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_sparse_tensors(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3).to_sparse()}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: w is a sparse"):
        read(tmp_path / "w.pt")


def test_archives_that_would_burst(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(300_000)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match="far larger unpacked than packed"):
        read(path)
