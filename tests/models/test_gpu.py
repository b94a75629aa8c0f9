"""What only a GPU can show: no wait for the host in a step, and the losses of the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

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
        images, targets = nuclei_batch(nuclei)
        losses = model(images.to(device), targets.to(device), seed=0, step=0)
        sum(losses.values()).backward()
        results.append((losses, [p.grad.cpu() for p in model.parameters()]))
    (cpu, cpu_grads), (gpu, gpu_grads) = results
    for key in cpu:
        torch.testing.assert_close(gpu[key].cpu(), cpu[key], rtol=1e-6, atol=1e-9)
    for one, other in zip(cpu_grads, gpu_grads, strict=True):
        assert (one - other).norm() <= 1e-6 * one.norm() + 1e-10


def test_a_step_waits_for_the_host_in_nms_alone(nuclei: Path) -> None:
    device = torch.device("cuda")
    model = tiny_model().to(device).train()
    batch = [part.to(device) for part in nuclei_batch(nuclei)]
    sum(model(*batch, seed=0, step=0).values()).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sum(model(*batch, seed=0, step=1).values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchroniz" in str(w.message)]
    assert all("ops/boxes.py" in w.filename for w in waits), [(w.filename, w.lineno) for w in waits]
