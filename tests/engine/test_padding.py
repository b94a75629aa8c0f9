"""How batches are padded and resized follows the model: training, validation, predict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import resdet
from resdet.models.rcnn import RCNN
from resdet.structures import ImageBatch
from tests.engine.conftest import Tiny

SIZES = [
    "train.max_steps=1",
    "data.augment.resize.short_edges=[60]",
    "data.augment.resize.max_size=60",
    "data.test_resize.short_edge=50",
    "data.test_resize.max_size=50",
]
ONE_MAP = ["model.fpn=null", "model.rpn.anchor_sizes=[[16, 32]]", "model.backbone.res5_dilation=2"]


@pytest.mark.parametrize(
    ("overrides", "trained", "tested"),
    [
        ([], (2, 3, 64, 64), ((1, 3, 64, 64), torch.uint8)),
        (
            [*ONE_MAP, "data.test_resize.method=float"],
            (2, 3, 60, 60),
            ((1, 3, 50, 50), torch.float32),
        ),
    ],
)
def test_batches_of_a_run(
    overrides: list[str],
    trained: tuple[int, ...],
    tested: tuple[tuple[int, ...], torch.dtype],
    tiny: Tiny,
    nuclei: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a pyramid sides are multiples of 32, without one an image is as large as its batch."""
    seen: set[tuple[bool, tuple[int, ...], torch.dtype]] = set()
    normalize = RCNN.normalize

    def spy(model: RCNN, batch: ImageBatch) -> torch.Tensor:
        seen.add((model.training, tuple(batch.images.shape), batch.images.dtype))
        return normalize(model, batch)

    monkeypatch.setattr(RCNN, "normalize", spy)
    run = resdet.train(tiny.config, [*SIZES, *overrides], run_dir=tmp_path / "run")
    # the losses of the validation are those of a model in evaluation mode, on the same batches
    assert seen == {(True, trained, torch.uint8), (False, *tested)}
    model = resdet.load(run)
    assert isinstance(model, RCNN)
    seen.clear()
    path = sorted((nuclei / "images").iterdir())[0]
    model.predict(Image.open(path).convert("RGB").resize((256, 256)))
    assert seen == {(False, *tested)}
