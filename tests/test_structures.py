"""Detections are picked by slices, masks, tensors and numbers; extras travel like boxes."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from resdet import Detections
from resdet.data.detection.batches import collate
from resdet.data.detection.dataset import Sample
from resdet.errors import UserError
from resdet.structures import Target


def three() -> Detections:
    boxes = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 6, 6]])
    return Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), (8, 8))


@pytest.mark.parametrize(
    ("keep", "rows"),
    [
        (slice(1, None), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0]), [2, 0]),
        (1, [1]),
        (-1, [2]),
    ],
)
def test_picking(keep, rows):
    picked = three()[keep]
    assert torch.equal(picked.boxes, three().boxes[rows])
    assert torch.equal(picked.scores, three().scores[rows])
    assert len(picked) == len(picked.to_coco(1)) == len(rows)


def test_masks_as_run_lengths():
    found = three()
    found.mask_probs = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    merged = three()
    merged.rles = found.encoded_masks()
    assert found.has_masks and merged.has_masks and not three().has_masks
    assert three().masks is None and three().encoded_masks() is None
    assert torch.equal(merged.masks, found.masks)
    assert merged.to_coco(1) == found.to_coco(1)
    picked = merged[torch.tensor([False, False, True])]
    assert picked.rles == [merged.rles[2]] and torch.equal(picked.masks, found.masks[2:])
    assert merged[1].rles == [merged.rles[1]] and merged[1:].rles == merged.rles[1:]
    assert repr(merged).endswith("8×8; rles)")


def test_a_loop_ends():
    assert [len(each) for each in three()] == [1, 1, 1]
    with pytest.raises(IndexError):
        three()[3]


def test_extras_are_picked_moved_and_written():
    found = three()
    found.extra = {"colour": torch.tensor([3, 1, 2]), "keypoints": torch.arange(18).view(3, 3, 2)}
    picked = found[torch.tensor([2, 0])].cpu()
    assert picked.extra["colour"].tolist() == [2, 3]
    assert picked.extra["keypoints"].shape == (2, 3, 2)
    records = found.to_coco(1)
    assert [record["colour"] for record in records] == [3, 1, 2]
    assert "keypoints" not in records[0], "more than two axes"


def test_repr_is_one_line_of_counts_and_sizes():
    found = three()
    assert repr(found) == "Detections(3: 2 of class 0, 1 of class 1; 8×8)"
    found.class_names = ["cat", "dog"]
    found.mask_probs, found.extra = torch.zeros(3, 28, 28), {"colour": torch.zeros(3)}
    assert repr(found) == "Detections(3: 2 cat, 1 dog; 8×8; mask_probs 28×28, colour)"
    assert repr(found[:0]) == "Detections(0; 8×8; mask_probs 28×28, colour)"


def test_extras_are_padded_like_boxes():
    def sample(count: int) -> Sample:
        boxes, labels = torch.ones(count, 4), torch.ones(count, dtype=torch.int64)
        masks = torch.ones(count, 2, 2, dtype=torch.uint8)
        extra = {"colour": torch.arange(count) + 5, "points": torch.ones(count, 2)}
        target = Target(boxes, labels, masks, count, count, extra)
        return Sample(torch.zeros(3, 8, 8, dtype=torch.uint8), target, (8, 8), "x.png")

    batch = collate([sample(2), sample(0), sample(3)])
    targets = batch.to(torch.device("cpu")).targets
    assert targets.extra["colour"].tolist() == [[5, 6, 0], [0, 0, 0], [5, 6, 7]]
    assert targets.extra["points"].shape == (3, 3, 2) and targets.extra["points"].sum() == 10
    assert targets.valid.sum(1).tolist() == [2, 0, 3]
    assert targets.mask_rows[targets.valid].tolist() == [0, 1, 2, 3, 4]
    assert collate([sample(0)]).targets.extra["colour"].shape == (1, 1)


def tracked() -> Detections:
    """Of an image of 40×30 pixels."""
    return Detections(
        torch.tensor([[10.0, 5, 30, 25], [2.5, 1.25, 8, 9.75], [30, 20, 41, 30.5]]),
        torch.tensor([0.9, 0.75, 0.5]),
        torch.tensor([1, 0, 1]),
        (30, 40),
        torch.ones(3, 4, 4),
        ["cat", "dog"],
        [7, 3],
        extra={"track_id": torch.tensor([4, 2, 9]), "pair": torch.zeros(3, 2)},
    )


def test_to_pandas() -> None:
    rows = tracked().to_pandas()
    assert list(rows.columns) == [
        *("x1", "y1", "x2", "y2", "score", "label", "class_name", "category_id", "track_id")
    ]
    assert rows.iloc[1].tolist() == [2.5, 1.25, 8.0, 9.75, 0.75, 0, "cat", 7, 2]
    assert rows.groupby("class_name").size().to_dict() == {"cat": 1, "dog": 2}
    assert len(tracked()[:0].to_pandas()) == 0
    assert three().to_pandas()["class_name"].isna().all()


class Recorded:
    """supervision.Detections of 0.31.2: what it was given, checked as it checks."""

    def __init__(
        self,
        xyxy: np.ndarray,
        mask: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
        class_id: np.ndarray | None = None,
        tracker_id: np.ndarray | None = None,
        data: dict[str, np.ndarray] | None = None,
    ) -> None:
        count = len(xyxy)
        assert xyxy.shape == (count, 4) and isinstance(xyxy, np.ndarray)
        assert mask is None or (mask.ndim == 3 and mask.shape[0] == count and mask.dtype == bool)
        for values in (confidence, class_id, tracker_id):
            assert values is None or values.shape == (count,)
        assert all(len(values) == count for values in (data or {}).values())
        self.xyxy, self.mask, self.confidence = xyxy, mask, confidence
        self.class_id, self.tracker_id, self.data = class_id, tracker_id, data or {}


def test_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"to_supervision needs .*'resdet\[supervision\]'"):
        monkeypatch.setitem(sys.modules, "supervision", None)
        tracked().to_supervision()
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=Recorded))
    theirs = tracked().to_supervision()
    assert theirs.xyxy.tolist()[1] == [2.5, 1.25, 8.0, 9.75]
    assert theirs.class_id.tolist() == [1, 0, 1] and theirs.tracker_id.tolist() == [4, 2, 9]
    assert theirs.data["class_name"].tolist() == ["dog", "cat", "dog"]
    np.testing.assert_array_equal(theirs.mask, tracked().masks)
    # what supervision 0.31.2 itself gives as their areas
    assert theirs.mask.sum((1, 2))[:2].tolist() == [388, 52]
    assert sorted(theirs.data) == ["class_name", "pair"]
    empty = tracked()[:0].to_supervision()
    assert empty.mask.shape == (0, 30, 40) and empty.xyxy.shape == (0, 4)
    plain = three().to_supervision()
    assert (plain.mask, plain.tracker_id, plain.data) == (None, None, {})


def test_crop() -> None:
    pixels = np.arange(30 * 40 * 3).reshape(30, 40, 3).astype(np.uint8)
    first, second, third = tracked().crop(pixels)
    np.testing.assert_array_equal(first, pixels[5:25, 10:30])
    np.testing.assert_array_equal(second, pixels[1:10, 2:8])  # covered in part
    np.testing.assert_array_equal(third, pixels[20:30, 30:40])  # and past the border
    first[:] = 0
    assert pixels[5:25, 10:30].any(), "a copy"
    turned = Image.fromarray(np.rot90(pixels, 1))
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    np.testing.assert_array_equal(tracked().crop(Image.open(file))[1], second)
    thin = tracked()
    thin.boxes = torch.tensor([[5.0, 5, 5, 5], [40, 30, 40, 30], [-9, -9, -1, -1]])
    assert [each.shape for each in thin.crop(pixels)] == [(1, 1, 3)] * 3
    with pytest.raises(UserError, match="belong to an image of 40×30 pixels"):
        tracked().crop(pixels[1:])
