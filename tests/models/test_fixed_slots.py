"""Fixed slots on a CPU: the numbers of the counted path, and a network that can be exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resdet.models.rcnn import RCNN
from resdet.structures import ImageBatch
from tests.models.test_rcnn import CASCADE
from tests.models.tiny import nuclei_batch, tiny_model

TORCHVISION = {"roi": {"aligned": False, "sampling_ratio": 2}}
POOL = {"roi": {"pooling": "pool"}}
C4 = {
    "fpn": None,
    "rpn": {"anchor_sizes": [[16, 32, 64]]},
    "roi": {
        "box_head": {"type": "res5", "num_fcs": 0, "pool_size": 8},
        "mask_head": {"num_convs": 0, "pool_size": 8},
    },
}


@pytest.mark.parametrize("changes", [{}, CASCADE, TORCHVISION, POOL])
def test_detections_are_those_of_the_counted_path(changes: dict, nuclei: Path) -> None:
    model = tiny_model({"score_thresh": 0.3} | changes).double().eval()
    images, _ = nuclei_batch(nuclei)
    assert not model.fixed_slots
    counted = model.infer(images, [(128, 128)] * 2)
    model.set_fixed_slots(True)
    fixed = model.infer(images, [(128, 128)] * 2)
    for a, b in zip(counted, fixed, strict=True):
        assert len(a) == len(b) > 0 and torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.boxes, b.boxes)
        torch.testing.assert_close(a.scores, b.scores)
        torch.testing.assert_close(a.mask_probs, b.mask_probs)
    model.place(torch.device("cpu"))
    assert not model.fixed_slots, "a CPU counts by default"


class Detect(nn.Module):
    """What an exporter gives a runtime: tensors in, tensors out."""

    def __init__(self, model: RCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        found = self.model.detect(ImageBatch(images, sizes))
        return found.boxes, found.scores, found.labels, found.images, found.extra["mask_probs"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "changes",
    [{}, CASCADE, *(pytest.param(pooling, marks=SLOW) for pooling in (TORCHVISION, POOL))],
)
def test_it_exports(changes: dict, nuclei: Path) -> None:
    model = tiny_model({"score_thresh": 0.3} | changes).eval()
    model.set_fixed_slots(True)
    one, other = (nuclei_batch(nuclei, keys)[0] for keys in ((0, 1), (2, 3)))
    with torch.no_grad():
        program = torch.export.export(Detect(model), (one.images, one.sizes))
        for batch in (one, other):
            expected = Detect(model)(batch.images, batch.sizes)
            assert len(expected[0]) > 0
            exported = program.module()(batch.images, batch.sizes)
            for a, b in zip(exported, expected, strict=True):
                torch.testing.assert_close(a, b)
