"""Files of weights in every format as named tensors, and what they may not hold."""

from __future__ import annotations

import argparse
import datetime
import io
import pickle
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.files.tensor_files import read_tensor_file
from resdet.interop.files import flat_state

STATE = {
    "w": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "half": torch.tensor([0.5, 2], dtype=torch.float16),
    "brain": torch.tensor([0.5, 2], dtype=torch.bfloat16),
    "count": torch.tensor(3),
}


def read(path: Path) -> dict[str, Tensor]:
    return flat_state(read_tensor_file(path), path)


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
    with pytest.raises(UserError, match=r"w\.pt: 'w' is a sparse"):
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


BIAS = torch.zeros(2)
NET = {"conv1.weight": torch.ones(2, 3), "layer1.0.conv1.weight": torch.ones(2), "fc.bias": BIAS}
CONTAINERS: dict[str, Any] = {
    "torchvision's references": {
        "model": NET,
        "optimizer": {"state": {0: {"momentum_buffer": BIAS}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"milestones": Counter({30: 1}), "_get_lr_called_within_step": False},
        "args": argparse.Namespace(output_dir=Path("x"), start=datetime.datetime(2026, 1, 1)),
        "epoch": 89,
        "scaler": {"scale": 65536.0, "_growth_tracker": 0},
    },
    "torch's examples": {"state_dict": NET, "best_acc1": torch.tensor(71.2), "arch": "resnet50"},
    # as timm 1.0.31 writes it
    "timm's": {
        "epoch": 0,
        "arch": "resnet18",
        "optimizer": {"state": {0: {"momentum_buffer": BIAS}}, "param_groups": [{"lr": 0.1}]},
        "version": 2,
        "args": argparse.Namespace(data_dir=Path("x"), input_size=(3, 224, 224)),
        "amp_scaler": {"scale": 65536.0, "_growth_tracker": 0},
        "state_dict": NET,
        "metric": np.float64(71.2),
        "saver": {"checkpoint_files": [("checkpoint-0.pth.tar", 71.2)], "best_epoch": 0},
    },
    # as Lightning 2.6.6 writes it
    "Lightning's": {
        "epoch": 0,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{k}": v for k, v in NET.items()} | {"loss.weight": BIAS},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": BIAS, "step": torch.tensor(1.0)}}}],
        "lr_schedulers": [{"step_size": 1, "base_lrs": [0.001]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"path": Path("x")},
    },
    "Lightning's with averages, which it stores as state_dict": {
        "state_dict": {f"model.{k}": v for k, v in NET.items()},
        "current_model_state": {f"model.{k}": v + 1 for k, v in NET.items()},
        "averaging_state": {"n_averaged": torch.tensor(2)},
    },
    "a compiled module in Lightning's": {
        "state_dict": {f"net._orig_mod.{k}": v for k, v in NET.items()}
    },
    "parallel": {f"module.{k}": v for k, v in NET.items()},
    "compiled and parallel": {"model": {f"_orig_mod.module.{k}": v for k, v in NET.items()}},
    "parallel and compiled": {"model": {f"module._orig_mod.{k}": v for k, v in NET.items()}},
    "a part compiled": {k.replace("layer1.", "layer1._orig_mod."): v for k, v in NET.items()},
    "pytorch-cifar's": {"net": NET, "acc": 93.1, "epoch": 200},
    "in two containers": {"model": {"state_dict": NET}},
    "another module's": {f"student.encoder.{k}": v for k, v in NET.items()},
    "with extra state": {**NET, "layer1.0._extra_state": io.BytesIO(b"x")},
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_and_prefixes_of_others(tmp_path: Path, name: str) -> None:
    torch.save(CONTAINERS[name], tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt"), NET)


def test_averaged_weights_come_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """torchvision's have a counter beside them, others lack the buffers."""
    caplog.set_level("INFO", "resdet")
    means = {key: value + 1 for key, value in NET.items()}
    wrapped = {f"module.{key}": value for key, value in means.items()}
    for averages, expected in (
        ({"model_ema": {**wrapped, "n_averaged": torch.tensor(5)}}, means),
        ({"state_dict_ema": means}, means),
        ({"ema": {"fc.bias": BIAS + 1}}, {**NET, "fc.bias": BIAS + 1}),
        ({"ema": {"shadow.0": BIAS + 1}}, NET),
    ):
        torch.save({"model": NET, **averages}, tmp_path / "w.pt")
        assert same(read(tmp_path / "w.pt"), expected)
    torch.save({"params_ema": means}, tmp_path / "w.pt")
    assert same(read(tmp_path / "w.pt"), means)
    assert "the averaged weights, 'model_ema', are taken" in caplog.text
    assert "the averaged weights, 'ema', are left out" in caplog.text


def test_what_cannot_be_chosen_or_read_is_named(tmp_path: Path) -> None:
    twins = {f"{side}.{k}": v for side in ("student", "teacher") for k, v in NET.items()}
    gan = {"generator": NET, "discriminator": NET}
    network = {"model": nn.Linear(2, 2), "epoch": 3}
    argument = {"model": {**NET, "path": Path("x")}}
    for values, words in (
        (twins, r"holds several networks, student\., teacher\.; save the state dict of one"),
        (gan, "holds several networks, 'generator', 'discriminator'"),
        (network, r"'model' is a whole network, torch\.nn\.modules\.linear\.Linear"),
        (argument, r"'path' is of type pathlib\.PosixPath, which is refused"),
        ({"optimizer": {"param_groups": []}}, "not a tensor|no named tensors"),
    ):
        torch.save(values, tmp_path / "w.pt")
        with pytest.raises(UserError, match=words):
            read(tmp_path / "w.pt")
