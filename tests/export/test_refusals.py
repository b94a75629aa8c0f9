"""What libraries refuse to convert is told in one sentence."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resdet.errors import UserError
from resdet.export.network import Network
from resdet.export.onnx import write_onnx
from resdet.export.openvino import write_ir
from resdet.export.refusals import refusing
from resdet.files.writing import WriteError
from resdet.models.classifier import Classifier


class Branching(nn.Module):
    """A backbone whose path depends on the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        if images.mean() > 0:  # this line is named
            images = images * 2
        return images.mean(dim=(2, 3))


class Counting(nn.Module):
    """A backbone that reads numbers out of its tensors."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * int(images.numpy().max())


class Unusual(nn.Module):
    """A backbone with an operator that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.mean(dim=(2, 3)))


def classify(backbone: nn.Module) -> Classifier:
    return Classifier(
        backbone,
        nn.Identity(),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
        channel_order="rgb",
        channels_last=False,
        test_resize=40,
        test_size=32,
        class_names=["a", "b", "c"],
    ).eval()


@pytest.mark.parametrize("size", [None, (32, 32)])
@pytest.mark.parametrize("backbone", [Branching(), Counting()])
def test_a_backbone_that_is_not_traced(
    backbone: nn.Module,
    size: tuple[int, int] | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UserError) as caught:
        write_onnx(Network(classify(backbone), size, source="runs/mine"), tmp_path / "x.onnx")
    text = str(caught.value)
    assert text.startswith("runs/mine: torch.export does not trace the network (")
    assert re.search(r", in test_refusals\.py line \d+\); write what depends on tensors", text)
    assert ("leave --dynamic out" in text) == (size is None) and "\n" not in text
    assert not list(tmp_path.iterdir())
    assert not any(capsys.readouterr()), "torch prints the graph that it has got"


def test_an_operator_that_onnx_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"runs/mine: torch does not .*bessel_j0.*export to \.pt2"):
        write_onnx(Network(classify(Unusual()), None, source="runs/mine"), tmp_path / "x.onnx")


def test_a_graph_that_openvino_does_not_read(tmp_path: Path) -> None:
    source = tmp_path / "broken.onnx"
    source.write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"x\.xml: OpenVINO does not convert .*export to \.onnx"):
        write_ir(source, tmp_path / "x.xml")
    assert list(tmp_path.iterdir()) == [source]


def wrapped(first: Exception) -> None:
    """Raise an error as libraries do that work in steps."""
    try:
        raise first
    except Exception:
        raise RuntimeError("step 2 of 3\n  failed") from first


def test_the_first_error_is_the_reason() -> None:
    wanted = r"^it fails \(the reason, in test_refusals\.py line \d+\); stop$"
    with pytest.raises(UserError, match=wanted), refusing("it fails", "stop"):
        wrapped(ValueError("\n the reason\nmore"))
    with pytest.raises(UserError, match=r"^photo\.png: is damaged$"), refusing("it", "stop"):
        raise UserError("photo.png: is damaged")


def test_a_full_disk_is_one(tmp_path: Path) -> None:
    wanted = r"x\.xml: cannot be written: no space left.*free some"
    with pytest.raises(WriteError, match=wanted), refusing("it", "stop", tmp_path / "x.xml"):
        wrapped(OSError(errno.ENOSPC, "No space left on device"))
