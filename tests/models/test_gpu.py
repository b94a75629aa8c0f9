"""What only a GPU can show: no wait for the host in a step, and the losses of the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from resdet.ops import kernels
from resdet.ops.boxes import clip_boxes, nms_of_groups
from resdet.ops.roi_pool import pool_rois
from resdet.structures import ImageBatch
from tests.models.test_rcnn import CASCADE
from tests.models.tiny import nuclei_batch, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("changes", [{}, CASCADE])
def test_losses_and_gradients_are_those_of_the_cpu(changes: dict, nuclei: Path) -> None:
    results = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        model = tiny_model(changes).double().to(device).train()
        model.set_fixed_slots(device.type == "cuda")
        images, targets = nuclei_batch(nuclei)
        losses = model(images.to(device), targets.to(device), seed=0, step=0)
        sum(losses.values()).backward()
        results.append((losses, [p.grad.cpu() for p in model.parameters()]))
    (cpu, cpu_grads), (gpu, gpu_grads) = results
    for key in cpu:
        torch.testing.assert_close(gpu[key].cpu(), cpu[key], rtol=1e-6, atol=1e-9)
    for one, other in zip(cpu_grads, gpu_grads, strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm() + 1e-10


def test_the_kernels_work_here() -> None:
    assert kernels.choose(torch.device("cuda", 0)) == (True, "on")


def test_a_step_never_waits_for_the_host(nuclei: Path) -> None:
    device = torch.device("cuda")
    model = tiny_model().to(device).train()
    model.set_fixed_slots(True)
    batch = [part.to(device) for part in nuclei_batch(nuclei)]
    sum(model(*batch, seed=0, step=0).values()).backward()
    with waits() as caught:
        sum(model(*batch, seed=0, step=1).values()).backward()
    assert not caught, caught


def test_inference_waits_for_what_it_found_alone(nuclei: Path) -> None:
    """As often for six images as for one: detections, those left at the original size, counts."""
    device = torch.device("cuda")
    model = tiny_model().to(device).eval()
    model.set_fixed_slots(True)
    images, _ = nuclei_batch(nuclei, (0, 1))
    counts = []
    for times in (1, 3):
        batch = ImageBatch(images.images.repeat(times, 1, 1, 1), images.sizes.repeat(times, 1))
        batch, sizes = batch.to(device), batch.sizes.tolist()
        model.infer(batch, sizes)
        with waits() as caught:
            found = model.infer(batch, sizes)
        assert any(len(each) for each in found)
        counts.append(len(caught))
    assert counts[0] == counts[1] <= 5, counts


@contextmanager
def waits() -> Iterator[list[str]]:
    """File and line of each wait of the host within it."""
    found: list[str] = []
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found += [f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio, aligned", [(0, True), (2, False)])
def test_regions_of_a_whole_step(
    dtype: torch.dtype, ratio: int, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2,000 regions of 256 channels: pooled values and gradients as by torchvision's kernel."""
    generator = torch.Generator("cuda").manual_seed(0)
    maps = [
        torch.randn(2, 256, 800 // stride, 1344 // stride, device="cuda", generator=generator)
        .to(dtype, memory_format=torch.channels_last)
        .requires_grad_()
        for stride in (4, 8, 16, 32)
    ]
    boxes = scattered(2000, generator)
    images = torch.arange(2000, device="cuda") % 2
    pools = []
    for turned_off in (False, True):
        if turned_off:
            monkeypatch.setattr(kernels, "usable", lambda x: False)
        pooled = pool_rois(
            maps,
            (4, 8, 16, 32),
            boxes,
            images,
            7,
            fixed_slots=False,
            aligned=aligned,
            sampling_ratio=ratio,
        )
        pools.append([pooled, *torch.autograd.grad(pooled.float().square().sum(), maps)])
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, theirs in zip(*pools, strict=True):
        difference = (ours.float() - theirs.float()).abs().max()
        assert difference <= bound * theirs.float().abs().max()


def test_nms_of_many_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    boxes = scattered(40 * 2000, generator).view(40, 2000, 4)
    counts = torch.randint(0, 2001, (40,), device="cuda", generator=generator)
    ours = nms_of_groups(boxes, counts, 0.7, fixed_slots=True)
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    theirs = nms_of_groups(boxes, counts, 0.7, fixed_slots=True)
    # IoU that is .7 but for rounding
    assert int((ours != theirs).sum()) <= 4


def scattered(count: int, generator: torch.Generator) -> torch.Tensor:
    """Boxes (count, 4) of 4 to 800 pixels, so of all levels, in 800 × 1344; many overlap."""
    draw = torch.rand(count, 4, device="cuda", generator=generator)
    size = 4 * 200 ** draw[:, 2:]
    center = draw[:, :2] * torch.tensor([1344.0, 800.0], device="cuda")
    boxes = torch.cat([center - size / 2, center + size / 2], dim=1)
    return clip_boxes(boxes, torch.tensor([800, 1344], device="cuda"))
