"""Every reader against files that are cut, changed and hostile: one clear error each, nothing run.

A new origin gets these tests by a maker in `MAKERS`.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from resdet.backbones import build_backbone
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.factory import build_classifier, build_trained, build_trained_classifier
from resdet.interop.detectron2 import weights as detectron2
from resdet.interop.fitting import load_backbone
from resdet.interop.loaded import LoadedWeights
from resdet.interop.weights import read_weights
from tests.models.tiny import tiny_model
from tests.models.torchvision_models import tiny

State = dict[str, Tensor]


@dataclass
class Sample:
    """A file that an origin's reader reads, and how to write it with other tensors."""

    suffix: str
    source: str | None
    state: State
    """By the names in the file."""
    write: Callable[[Path, State], None]
    backbone: str | None = None
    """Of a backbone alone, the network that it is loaded into."""

    def make(self, folder: Path, state: State | None = None) -> Path:
        path = folder / f"weights{self.suffix}"
        self.write(path, self.state if state is None else state)
        return path

    def load(self, path: Path) -> None:
        """All that reads the file: as weights, and into a network."""
        if self.backbone is not None:
            load_backbone(network(self.backbone), str(path))
            return
        weights = read_weights(str(path), self.source)
        build = build_trained_classifier if weights.kind == "classifier" else build_trained
        build(weights)


@cache
def network(name: str) -> nn.Module:
    """What refuses weights stays as it was, so that one is enough."""
    return build_backbone(name)


def write_torch(path: Path, state: State) -> None:
    torch.save(state, path)


def write_pickle(path: Path, state: State) -> None:
    arrays = {key: value.numpy() for key, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}, 2))


def our_classifier() -> Sample:
    values = {
        "task": "classification",
        "model": {"backbone": {"name": "cifar_resnet20"}},
        "train": {"epochs": 1},
    }
    config = config_from_dict(values, "the test")
    assert isinstance(config, ClassificationConfig)
    model = build_classifier(config, class_names=["a", "b"])
    checkpoint = {
        "format": 1,
        "kind": "classifier",
        "config": config_to_dict(config),
        "class_names": ["a", "b"],
    }

    def write(path: Path, state: State) -> None:
        torch.save({**checkpoint, "model": state}, path)

    return Sample(".pt", None, model.state_dict(), write)


def torchvision_classifier() -> Sample:
    state = {key: half(value) for key, value in resnet18(num_classes=2).state_dict().items()}
    return Sample(".pth", "torchvision:resnet18", state, write_torch)


def timm_classifier() -> Sample:
    state = torchvision_classifier().state
    return Sample(
        ".safetensors",
        "timm:resnet18.a1_in1k",
        state,
        lambda path, values: safetensors.torch.save_file(values, path),
    )


def half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def msra_backbone() -> Sample:
    """As Caffe2 names a ResNet-18."""
    state: State = {}
    for key, value in build_backbone("resnet18").state_dict().items():
        if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            continue
        parts = key.split(".")
        if parts[0] in ("conv1", "bn1"):
            name = "conv1" if parts[0] == "conv1" else "res_conv1_bn"
        else:
            branch = {"conv": "2", "bn": "2"}.get(parts[2].rstrip("123"), "1")
            which = "abc"[int(parts[2][-1]) - 1] if branch == "2" else ""
            is_norm = parts[2].startswith("bn") or (branch == "1" and parts[3] == "1")
            name = f"res{int(parts[0][-1]) + 1}_{parts[1]}_branch{branch}{which}"
            name += "_bn" if is_norm else ""
        end = {"weight": "s" if name.endswith("_bn") else "w", "bias": "b"}[parts[-1]]
        state[f"{name}_{end}"] = half(value)
    return Sample(".pkl", "detectron2", state, write_pickle, backbone="resnet18")


def torchvision_detector() -> Sample:
    state = tiny("maskrcnn_resnet50_fpn_v2").state_dict()
    return Sample(".pth", "torchvision", {k: half(v) for k, v in state.items()}, write_torch)


def detectron2_detector() -> Sample:
    model = tiny_model({"backbone": {"name": "resnet18", "norm": "frozen_bn"}})
    config = config_to_dict(model.config)
    weights = LoadedWeights(model.state_dict(), "detector", config, "the test", model.class_names)
    state, _ = detectron2.exported(weights)
    return Sample(".pkl", "detectron2", {k: half(v) for k, v in state.items()}, write_pickle)


MAKERS: dict[str, Callable[[], Sample]] = {
    "resdet": our_classifier,
    "torchvision": torchvision_classifier,
    "timm": timm_classifier,
    "msra": msra_backbone,
    "detectron2": detectron2_detector,
    "torchvision detector": torchvision_detector,
}


@pytest.fixture(scope="module", params=list(MAKERS))
def sample(request: pytest.FixtureRequest) -> Sample:
    torch.manual_seed(0)
    return MAKERS[request.param]()


def small(sample: Sample) -> State:
    """The same names with a number or two each, for files that are not to be loaded."""
    return {key: value.flatten()[:2].clone() for key, value in sample.state.items()}


def refusal(call: Callable[[], object], path: Path) -> str:
    """The text of the one UserError that `call` ends in."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert str(path) in text, text
    assert "\n" not in text and len(text) < 2000, text
    return text


def test_the_sample_itself_is_read(sample: Sample, tmp_path: Path) -> None:
    sample.load(sample.make(tmp_path))


def test_truncated_at_many_points(sample: Sample, tmp_path: Path) -> None:
    path = sample.make(tmp_path, small(sample))
    whole = path.read_bytes()
    ends = {0, 1, 2, 7, 8, 9, len(whole) - 1, len(whole) - 30}
    ends |= {int(len(whole) * part) for part in np.linspace(0, 1, 25, endpoint=False)}
    for end in sorted(ends):
        path.write_bytes(whole[:end])
        refusal(lambda: read_weights(str(path), sample.source), path)


def test_bytes_changed_at_random(sample: Sample, tmp_path: Path) -> None:
    """A changed number may pass, but nothing fails in another way."""
    path = sample.make(tmp_path, small(sample))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            changed[place] = random.integers(256)
        path.write_bytes(changed)
        try:
            read_weights(str(path), sample.source)
        except UserError as error:
            assert str(path) in str(error)


def first(state: State, dims: int = 4) -> str:
    return next(key for key, value in state.items() if value.ndim == dims)


CHANGES: dict[str, Callable[[str, State], State]] = {
    "renamed": lambda key, s: {(f"x.{k}" if k == key else k): v for k, v in s.items()},
    "all renamed": lambda key, s: {f"{k}.x": v for k, v in s.items()},
    "missing": lambda key, s: {k: v for k, v in s.items() if k != key},
    "one more": lambda key, s: {**s, "x.weight": torch.zeros(1)},
    "transposed": lambda key, s: {**s, key: s[key].transpose(0, 1).contiguous()},
    "one dimension": lambda key, s: {**s, key: s[key].flatten()},
    "no dimension": lambda key, s: {**s, key: torch.tensor(1.0)},
    "no values": lambda key, s: {**s, key: s[key][:0]},
    "integers": lambda key, s: {**s, key: s[key].int()},
    "booleans": lambda key, s: {**s, key: s[key] > 0},
    "complex": lambda key, s: {**s, key: s[key].to(torch.complex64)},
    "not a number": lambda key, s: {**s, key: torch.full_like(s[key], float("nan"))},
    "infinite": lambda key, s: {**s, key: torch.full_like(s[key], float("inf"))},
    "nothing": lambda key, s: {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_tensors(sample: Sample, tmp_path: Path, change: str) -> None:
    state = CHANGES[change](first(sample.state), sample.state)
    path = sample.make(tmp_path, state)
    if change == "one more" and sample.backbone is not None:
        sample.load(path)  # what is beside a backbone is left out
    else:
        refusal(lambda: sample.load(path), path)


class Calls:
    """What a pickle calls when it is loaded."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def hostile(proof: Path) -> dict[str, Any]:
    return {
        "system": Calls(os.system, f"touch {proof}"),
        "eval": Calls(eval, f"open({str(proof)!r}, 'w')"),
        "path": Calls(Path.touch, proof),
        "nested": [{"a": (Calls(os.system, f"touch {proof}"),)}],
        "network": nn.Linear(1, 1),
        "a file's path": proof,
    }


def test_code_in_pickles(sample: Sample, tmp_path: Path) -> None:
    if sample.suffix == ".safetensors":
        pytest.skip("safetensors holds no pickles")
    proof = tmp_path / "proof"
    for content in hostile(proof).values():
        for save in (pickle.dump, torch.save):
            path = tmp_path / f"weights{sample.suffix}"
            with path.open("wb") as file:
                save({"model": {**small(sample), "x": content}}, file)
            text = refusal(lambda path=path: read_weights(str(path), sample.source), path)
            assert "refused" in text or "'x' is a list" in text
    assert not proof.exists()


RAW = {
    "tuples in tuples": b"\x80\2}(" + b")" + b"\x85" * 500_000 + b"K\1u.",
    "lists in lists": b"\x80\2" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "dicts in dicts": b"\x80\2" + b"}K\0" * 20_000 + b"K\0" + b"s" * 20_000 + b".",
    "persistent ids": b"\x80\2(X\1\0\0\0aQQQl.",
    "place in the memo": b"\x80\2K\1r\xff\xff\xff\x7f.",
    "declared text": b"\x80\4\x8d\xff\xff\xff\xff\xff\0\0\0a.",
    "a page": b"<!DOCTYPE html><html>404 not found</html>",
    "json": json.dumps({"model": {"a": [1, 2, 3]}}).encode(),
    "zeros": bytes(1000),
    "zip": b"PK\x03\x04" + bytes(200),
    "nothing": b"",
    "a dict of nothing": pickle.dumps({}, 2),
    "a list": pickle.dumps([1, 2], 2),
    "a number for a model": pickle.dumps({"model": 3, "kind": "detector", "format": 1}, 2),
    "models in models": pickle.dumps({"model": {"model": {"model": {"a": 1}}}}, 2),
    "a tuple for a name": pickle.dumps({("a", 1): 2.0}, 2),
}


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl", ".safetensors", ""])
def test_other_content(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(RAW[name])
    for source in (None, "torchvision", "timm:resnet18.a1_in1k", "detectron2"):
        refusal(lambda source=source: read_weights(str(path), source), path)


def safetensors_bytes(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}


HEADERS: dict[str, bytes] = {
    "larger shape": safetensors_bytes({"a": entry(shape=[10**12])}),
    "shape that overflows": safetensors_bytes({"a": entry(shape=[2**62, 2**62])}),
    "negative shape": safetensors_bytes({"a": entry(shape=[-4])}),
    "offsets outside": safetensors_bytes({"a": entry(data_offsets=[0, 10**15])}),
    "offsets backward": safetensors_bytes({"a": entry(data_offsets=[16, 0])}),
    "offsets that overlap": safetensors_bytes({"a": entry(), "b": entry()}),
    "hole": safetensors_bytes({"a": entry(data_offsets=[8, 24])}, bytes(24)),
    "unknown type": safetensors_bytes({"a": entry(dtype="F31")}),
    "type that no weights have": safetensors_bytes({"a": entry(dtype="F8_E4M3", shape=[16])}),
    "no shape": safetensors_bytes({"a": {"dtype": "F32"}}),
    "list": safetensors_bytes([1, 2]),
    "number": safetensors_bytes(3),
    "deep": safetensors_bytes(b"[" * 100_000),
    "no json": safetensors_bytes(b"{'a': 1}"),
    "no text": safetensors_bytes(b"\xff\xfe\x00"),
    "no tensors": safetensors_bytes({}, b""),
    "only notes": safetensors_bytes({"__metadata__": {"format": "pt"}}, b""),
    "huge header": struct.pack("<Q", 2**63) + b"{}",
    "longer header": struct.pack("<Q", 90_000_000) + b"{}",
    "the same name twice": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
        b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(HEADERS[name])
    for source in (None, "timm", "timm:resnet18.a1_in1k"):
        sample = Sample(".safetensors", source, {}, write_torch)
        refusal(lambda sample=sample: sample.load(path), path)


def test_what_is_no_file(sample: Sample, tmp_path: Path) -> None:
    folder = tmp_path / f"weights{sample.suffix}"
    refusal(lambda: read_weights(str(folder), sample.source), folder)
    folder.mkdir()
    refusal(lambda: read_weights(str(folder), sample.source), folder)
    (folder / "best.pt").mkdir()
    refusal(lambda: read_weights(str(folder), sample.source), folder)
    link = tmp_path / f"link{sample.suffix}"
    link.symlink_to(link)
    refusal(lambda: read_weights(str(link), sample.source), link)
    long = tmp_path / ("a" * 300 + sample.suffix)
    refusal(lambda: read_weights(str(long), sample.source), long)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read(sample: Sample, tmp_path: Path) -> None:
    path = sample.make(tmp_path, small(sample))
    path.chmod(0)
    refusal(lambda: read_weights(str(path), sample.source), path)
    path.chmod(0o600)
    tmp_path.chmod(0)
    refusal(lambda: read_weights(str(path), sample.source), path)
    tmp_path.chmod(0o700)


def test_files_that_the_system_refuses(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, also for root."""
    path = sample.make(tmp_path, small(sample))

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("pathlib.Path.open", "pathlib.Path.read_bytes", "zipfile.ZipFile"):
        monkeypatch.setattr(name, refuse)
    for name in ("safetensors.torch.load_file",):
        monkeypatch.setattr(name, refuse)
    assert "Permission denied" in refusal(lambda: read_weights(str(path), sample.source), path)
