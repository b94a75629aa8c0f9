"""Soft-NMS and weighted box fusion against their published algorithms, written out slowly."""

import math

import pytest
import torch

from resdet.ops.box_merging import fuse_boxes, soft_nms
from resdet.ops.boxes import nms_by_group
from tests.ops.test_box_voting import case, iou


def slow_soft_nms(boxes, scores, groups, method, sigma, iou_thresh, score_thresh):
    """Figure 2 of Bodla et al. 2017: {(position): score}."""
    kept: dict[int, float] = {}
    for group in set(groups):
        left = {i: s for i, (s, g) in enumerate(zip(scores, groups, strict=True)) if g == group}
        while left:
            best = min(left, key=lambda i: (-left[i], boxes[i]))
            score = left.pop(best)
            if score <= score_thresh:
                break
            kept[best] = score
            for i in left:
                overlap = iou(boxes[best], boxes[i])
                if method == "gaussian":
                    left[i] *= math.exp(-(overlap**2) / sigma)
                elif overlap >= iou_thresh:
                    left[i] *= 1 - overlap
    return kept


def slow_fusion(boxes, scores, groups, views, thresh):
    """Steps 1 to 6 of Solovyev et al. 2021, 3: sorted rows (group, score, box)."""
    out = []
    for group in sorted(set(groups)):
        clusters: list[list[tuple[float, list[float]]]] = []
        fused: list[list[float]] = []
        rows = [(s, b) for s, b, g in zip(scores, boxes, groups, strict=True) if g == group]
        for score, box in sorted(rows, key=lambda row: (-row[0], row[1])):
            overlaps = [iou(box, one) for one in fused]
            best = max(range(len(fused)), key=lambda i: overlaps[i], default=-1)
            if best < 0 or overlaps[best] <= thresh:
                clusters.append([(score, box)])
                fused.append(box)
                continue
            clusters[best].append((score, box))
            total = sum(s for s, _ in clusters[best])
            if total > 0:
                fused[best] = [
                    sum(s * b[side] for s, b in clusters[best]) / total for side in range(4)
                ]
        for cluster, box in zip(clusters, fused, strict=True):
            mean = sum(s for s, _ in cluster) / len(cluster)
            out.append([group, mean * min(len(cluster), views) / views, *box])
    return sorted(out)


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("count", [0, 1, 30])
def test_soft_nms_equals_the_algorithm(count: int, method: str) -> None:
    options = {"method": method, "sigma": 0.5, "iou_thresh": 0.3, "score_thresh": 0.1}
    for seed in range(15):
        boxes, scores, groups = case(seed, count)
        kept, lowered = soft_nms(boxes, scores, groups, limit=100, **options)
        expected = slow_soft_nms(
            boxes.tolist(), scores.tolist(), groups.tolist(), method, 0.5, 0.3, 0.1
        )
        assert len(kept) == len(expected)
        # boxes that are equal in all may stand for each other
        rows = sorted(zip(lowered.tolist(), boxes[kept].tolist(), strict=True))
        wanted = sorted((score, boxes[i].tolist()) for i, score in expected.items())
        for (score, box), (other, same) in zip(rows, wanted, strict=True):
            assert score == pytest.approx(other, rel=1e-12) and box == same
        assert torch.equal(lowered, lowered.sort(descending=True).values)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        again, same = soft_nms(boxes[order], scores[order], groups[order], limit=100, **options)
        assert torch.equal(same, lowered)
        assert torch.equal(boxes[order][again], boxes[kept])


def test_soft_nms_of_boxes_apart_and_its_limit() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    scores, groups = torch.tensor([0.2, 0.9, 0.5]), torch.zeros(3, dtype=torch.int64)
    options = {"method": "gaussian", "sigma": 0.5, "iou_thresh": 0.5, "score_thresh": 0.0}
    kept, lowered = soft_nms(boxes, scores, groups, limit=2, **options)
    assert kept.tolist() == [1, 2] and torch.equal(lowered, scores[kept])
    assert kept.tolist() == nms_by_group(boxes, scores, groups, 0.5)[:2].tolist()


@pytest.mark.parametrize("count", [0, 1, 30])
def test_fusion_equals_the_algorithm(count: int) -> None:
    for seed in range(15):
        boxes, scores, groups = case(seed, count)
        fused = fuse_boxes(boxes, scores, groups, num_views=3, iou_thresh=0.4)
        expected = slow_fusion(boxes.tolist(), scores.tolist(), groups.tolist(), 3, 0.4)
        rows = torch.cat([fused[2][:, None], fused[1][:, None], fused[0]], dim=1)
        torch.testing.assert_close(
            torch.tensor(sorted(rows.tolist())), torch.tensor(expected), rtol=1e-6, atol=1e-9
        )
        assert torch.equal(fused[1], fused[1].sort(descending=True).values)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        again = fuse_boxes(boxes[order], scores[order], groups[order], num_views=3, iou_thresh=0.4)
        assert all(torch.equal(a, b) for a, b in zip(again, fused, strict=True))


def test_fusion_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [50, 50, 60, 60]]) + 1e6
    scores, groups = torch.tensor([0.75, 0.25, 0.4]), torch.tensor([4, 4, 4])
    fused, mean, labels = fuse_boxes(boxes, scores, groups, num_views=2, iou_thresh=0.55)
    assert (fused - 1e6).tolist() == [[0, 0, 10, 9.5], [50, 50, 60, 60]]
    assert mean.tolist() == pytest.approx([0.5, 0.2]) and labels.tolist() == [4, 4]
