"""The aims of a GPU: told by what was measured, and a part that fails does not stop the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdet.errors import UserError
from tools.benchmark import gpu


def row(name: str, seconds: float | None, items: int) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": seconds,
        "per_s": seconds and items / seconds,
        "peak_mb": 1000.0,
        "error": None if seconds else "out of memory",
    }


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 images in .15 s, and 8 in .04 s; the network fails; 7 ms a CIFAR step."""

    def detector(work: str, **given: Any) -> list[dict[str, Any]]:
        assert given["size"] == gpu.SIZE and given["precisions"] == ["bf16"]
        items, scale = {"train": (16, 0.15), "infer": (8, 0.04)}[work]
        rows = [] if given.get("against") == () else [row("torchvision, fp32", 10 * scale, items)]
        if rows:
            rows.append(row("torchvision, bf16", 2.5 * scale, items))
        return [*rows, row("resdet, bf16, eager", 2 * scale, items), row("resdet", scale, items)]

    monkeypatch.setattr(gpu, "benchmark_detector", detector)
    monkeypatch.setattr(
        gpu, "benchmark_network", lambda **_: [row("resdet, bf16, eager", None, 256)]
    )
    monkeypatch.setattr(gpu, "benchmark_cifar", lambda *_, **__: [row("resdet, bf16", 0.007, 128)])


def test_what_holds_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aims = gpu.benchmark_gpu(cifar="somewhere", device="cpu", out=tmp_path)
    found = {(each.part, each.aim): each for each in aims}
    assert found["train", "100 images/s"].holds
    # 10 times its fp32, 2.5 times its bf16
    ratio = found["train", "3 × torchvision"]
    assert not ratio.holds and "10.00 × torchvision, fp32" in ratio.found
    assert found["train101", "75 images/s"].holds
    assert not found["infer", "250 images/s"].holds
    assert found["cifar", "64,000 steps in 8 minutes"].found.startswith("7.5 minutes")
    assert "out of memory" in found["cls", "to run"].found
    assert "input" not in {each.part for each in aims}
    written = json.loads((tmp_path / "benchmark_gpu.json").read_text())["aims"]
    assert [each["part"] for each in written] == [each.part for each in aims]
    assert capsys.readouterr().out.count("NOT") == sum(not each.holds for each in aims)


def test_images_are_loaded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.jpg")
    [aim] = gpu._input(str(tmp_path), batch_size=2, steps=2)
    assert "images/s on" in aim.found


def test_unknown_parts() -> None:
    with pytest.raises(UserError, match="choose from train, train101"):
        gpu.benchmark_gpu(parts=["trian"], device="cpu")
