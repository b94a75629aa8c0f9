"""The first bytes decide how a file of tensors is read, and say what else it is."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from resdet.errors import UserError
from resdet.files.tensor_files import read_tensor_file

STATE = {"w": torch.arange(6.0)}


@pytest.mark.parametrize("name", ["w.pt", "w.pkl", "w.safetensors", "w.bin", "w"])
def test_no_suffix_misleads(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for is_zip in (True, False):
        torch.save(STATE, path, _use_new_zipfile_serialization=is_zip)
        assert torch.equal(read_tensor_file(path)["w"], STATE["w"])
    # a name that makes the header 640 bytes long, as which a pickle begins
    safetensors.torch.save_file({"w": STATE["w"], "x" * 525: STATE["w"] + 1}, path)
    assert torch.equal(read_tensor_file(path)["w"], STATE["w"])
    if path.suffix != ".safetensors":
        path.write_bytes(pickle.dumps({"w": np.arange(6.0)}, 2))
        assert read_tensor_file(path)["w"].tolist() == STATE["w"].tolist()


OTHERS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "run git lfs pull"),
    "page": (b"<!DOCTYPE html><html>404</html>", "a web page and not the file; download it again"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "config": (b"model:\n  fpn: null\n", "no file of torch, safetensors or pickle"),
    "annotations": (b'{"images": []}', "no file of torch, safetensors or pickle"),
    "picture": (b"\xff\xd8\xff\xe0" + bytes(64), "no file of torch, safetensors or pickle"),
    "one byte": (b"\x80", "truncated"),
    "nothing": (b"", "no file of torch, safetensors or pickle"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files(tmp_path: Path, name: str) -> None:
    content, words = OTHERS[name]
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.pt cannot be read as .*{words}"):
        read_tensor_file(tmp_path / "w.pt")


def test_what_is_no_dict(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    np.savez(tmp_path / "w.npz", w=np.ones(2))
    with pytest.raises(UserError, match=r"w\.npz .* a zip file, but none of torch\.save"):
        read_tensor_file(tmp_path / "w.npz")
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"is a whole network, torch\.nn\.modules\.linear\.Linear"):
        read_tensor_file(path)
    torch.save([torch.ones(1)], path)
    with pytest.raises(UserError, match="holds a list, not a dict of named tensors"):
        read_tensor_file(path)
    loop: dict[str, object] = {}
    loop["a"] = loop
    path.write_bytes(pickle.dumps(loop, 2))
    with pytest.raises(UserError, match="containers in themselves"):
        read_tensor_file(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_tensor_file(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="Is a directory"):
        read_tensor_file(tmp_path)
