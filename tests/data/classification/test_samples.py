"""Batches of labelled images."""

from __future__ import annotations

import torch

from resdet.data.classification.samples import BROKEN, ClassificationSample, collate_classification


def sample(index: int, **changes: object) -> ClassificationSample:
    image = torch.full((3, 8, 8), index, dtype=torch.uint8)
    return ClassificationSample(
        image, label=index % 2, index=index, path=f"{index}.jpg", epoch=4, **changes
    )  # type: ignore[arg-type]


def test_a_batch_keeps_the_order_of_its_samples() -> None:
    batch = collate_classification([sample(5), sample(2)])
    assert batch.images.shape == batch.shape == (2, 3, 8, 8)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.images.dtype == torch.uint8 and batch.labels.dtype == torch.int64
    assert batch.images[:, 0, 0, 0].tolist() == [5, 2]
    assert batch.labels.tolist() == [1, 0]
    assert batch.keys == [(4, 5), (4, 2)]
    assert batch.paths == ["5.jpg", "2.jpg"]
    assert batch.problems == []


def test_a_broken_image_travels_with_its_problem() -> None:
    broken = ClassificationSample(
        torch.zeros(3, 8, 8).byte(), BROKEN, 7, "7.jpg", "7.jpg: cut short"
    )
    batch = collate_classification([sample(1), broken]).to(torch.device("cpu"))
    assert batch.labels.tolist() == [1, -1]
    assert [problem for _, problem in batch.problems] == ["7.jpg: cut short"]
    assert batch.paths == ["1.jpg", "7.jpg"]
