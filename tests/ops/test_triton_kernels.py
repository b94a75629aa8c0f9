"""The GPU kernels on a CPU: their numbers in Triton's interpreter, and that they compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from resdet.ops import kernels
from resdet.ops.boxes import nms_of_groups
from tests.ops.test_boxes import random_boxes

triton = pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interpreted() -> dict[str, Any]:
    result = subprocess.run(
        [sys.executable, "-m", "tests.ops.interpreted_kernels"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_trial_finds_no_fault(interpreted: dict[str, Any]) -> None:
    assert interpreted["fault"] is None


@pytest.mark.parametrize("case", ["nms", "nms a group at a time"])
def test_nms_keeps_what_torchvision_keeps(case: str, interpreted: dict[str, Any]) -> None:
    assert interpreted[case] == 0


@pytest.mark.parametrize(
    "case", ["aligned", "2 samples", "not aligned", "as torchvision", "300 channels", "bf16"]
)
def test_regions_and_gradients_are_torchvisions(case: str, interpreted: dict[str, Any]) -> None:
    assert interpreted[case] < (8e-3 if case == "bf16" else 2e-6)


def test_no_regions(interpreted: dict[str, Any]) -> None:
    assert interpreted["regions of nothing"] == [0, 4, 7, 7]


@pytest.mark.parametrize("capability", [80, 90])
def test_nms_compiles(capability: int) -> None:
    from resdet.ops import triton_nms

    numbers = {"num_boxes": "i32", "num_words": "i32"}
    tables = {"counts": "*i32", "words": "*i32"}
    compile_for(
        capability,
        triton_nms._overlaps,
        {**tables, **numbers, "boxes": "*fp32", "thresh": "fp32"},
        {"SIDE": triton_nms.TILE},
    )
    compile_for(capability, triton_nms._choose, {**tables, **numbers, "keep": "*i8"}, {"WORDS": 32})


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("kind", ["bf16", "fp32"])
@pytest.mark.parametrize("capability", [80, 90])
def test_roi_align_compiles(capability: int, kind: str, backward: bool) -> None:
    from resdet.ops import triton_roi

    types = {
        "maps": "*fp32" if backward else f"*{kind}",
        "height": "i32",
        "width": "i32",
        "scale": "fp32",
    }
    signature = {f"{name}{level}": type_ for name, type_ in types.items() for level in range(5)}
    signature |= {"rois": "*fp32", "levels": "*i64", "pooled": f"*{kind}"}
    signature |= {"channels": "i32", "offset": "fp32", "ratio": "i32"}
    constants = {"SIZE": 7, "ALIGNED": True, "BACKWARD": backward, "BLOCK": 256}
    compile_for(capability, triton_roi._pool, signature, constants)


def compile_for(
    capability: int, kernel: Any, signature: dict[str, str], constants: dict[str, Any]
) -> None:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    full = {name: signature.get(name, "constexpr") for name in kernel.arg_names}
    source = ASTSource(kernel, full, constexprs=constants)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 1}
    )
    assert compiled.asm["cubin"]


def test_a_cpu_runs_the_plain_path() -> None:
    boxes, counts = random_boxes(4, 60, extent=40), torch.tensor([60, 0, 7, 33])
    assert not kernels.usable(boxes)
    keep = nms_of_groups(boxes, counts, 0.4, fixed_slots=False)
    for group, count in enumerate(counts.tolist()):
        assert not keep[group, count:].any()
        best_first = torch.arange(count, 0, -1.0)
        kept = torch.ops.torchvision.nms(boxes[group, :count], best_first, 0.4)
        assert keep[group].nonzero()[:, 0].tolist() == sorted(kept.tolist())
