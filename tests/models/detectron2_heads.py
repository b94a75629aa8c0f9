"""Our RoI heads in the shape of a fixture's, and its inputs as ours; shared by the parity tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from resdet.models.box_head import BoxHead
from resdet.models.regions import RegionSamples
from resdet.models.roi_heads import RoIHeads
from resdet.models.rpn import Proposals
from resdet.structures import TargetBatch
from tests.fixtures.recipe import Fixture, pyramid

STRIDES = [4, 8, 16, 32]
CASCADE_WEIGHTS = [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]]
CASCADE_IOUS = [0.5, 0.6, 0.7]


def make_heads(facts: dict[str, Any], stages: int) -> RoIHeads:
    given = facts["options"]
    loss, beta = given.get("BBOX_REG_LOSS_TYPE", "smooth_l1"), given.get("SMOOTH_L1_BETA", 0.0)
    heads = [
        BoxHead(
            facts["channels"],
            facts["num_classes"],
            pool_size=given["POOLER_RESOLUTION"],
            num_convs=given.get("NUM_CONV", 0),
            conv_dim=given.get("CONV_DIM", 8),
            num_fcs=given["NUM_FC"],
            fc_dim=given["FC_DIM"],
            norm="gn" if given.get("NORM") == "GN" else "none",
            average=False,
            context=False,
            dropout=0.0,
            class_agnostic=given.get("CLS_AGNOSTIC_BBOX_REG", False),
            box_weights=CASCADE_WEIGHTS[stage],
            # Detectron2's smooth L1 with a beta of 0 is L1
            box_loss="l1" if loss == "smooth_l1" and beta == 0 else loss,
            smooth_l1_beta=beta or 0.1,
        )
        for stage in range(stages)
    ]
    return RoIHeads(
        heads,
        CASCADE_IOUS[:stages],
        {},
        res5=None,
        context=False,
        strides=STRIDES,
        box_pool_size=given["POOLER_RESOLUTION"],
        pooling="align",
        aligned=True,
        sampling_ratio=0,
        num_samples=facts["sample"] or 64,
        positive_fraction=0.25 if facts["sample"] else 1.0,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_image=20,
        min_detection_size=0.0,
    )


def make_features(facts: dict[str, Any]) -> dict[str, Tensor]:
    """p2…p5 with gradients."""
    maps = pyramid(facts["features_seed"], 3, facts["channels"], tuple(facts["size"]))
    return {k: torch.from_numpy(v).requires_grad_() for k, v in maps.items() if k != "p6"}


def padded(rows: list[Tensor], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Ragged rows as (B, longest, …), and which of them are real (B, longest)."""
    count = max(len(row) for row in rows)
    out = torch.full((len(rows), count, *rows[0].shape[1:]), fill, dtype=rows[0].dtype)
    valid = torch.zeros(len(rows), count, dtype=torch.bool)
    for i, row in enumerate(rows):
        out[i, : len(row)], valid[i, : len(row)] = row, True
    return out, valid


def by_image(fixture: Fixture, key: str, images: int = 3) -> list[Tensor]:
    return [torch.from_numpy(fixture[f"{key}{i}"]) for i in range(images)]


def make_targets(fixture: Fixture, case: str, images: int = 3) -> TargetBatch:
    boxes, valid = padded(by_image(fixture, f"{case}/gt_boxes", images))
    labels, _ = padded(by_image(fixture, f"{case}/gt_classes", images))
    rows = torch.zeros_like(labels)
    rows[valid] = torch.arange(int(valid.sum()))
    keys = torch.arange(images)
    return TargetBatch(boxes, labels, valid, None, rows, keys, keys >= 0, list(range(images)))


def make_proposals(fixture: Fixture, case: str) -> Proposals:
    boxes, valid = padded(by_image(fixture, f"{case}/proposals"))
    return Proposals(boxes, torch.zeros(valid.shape).masked_fill(~valid, -torch.inf), valid)


def stage_samples(fixture: Fixture, case: str, stage: int, num_classes: int) -> RegionSamples:
    """The proposals that the reference sampled or refined, in its order."""
    boxes, valid = padded(by_image(fixture, f"{case}/stage{stage}_boxes"))
    labels, _ = padded(by_image(fixture, f"{case}/stage{stage}_classes"), num_classes)
    gt_boxes, _ = padded(by_image(fixture, f"{case}/stage{stage}_gt_boxes"))
    images = torch.arange(len(boxes))[:, None].expand_as(labels)
    return RegionSamples(boxes, labels, gt_boxes, images, torch.zeros_like(labels), valid)


def in_order(boxes: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Rows (boxes, columns…) sorted, so that sets of samples can be compared."""
    table = np.concatenate([boxes, *[c.reshape(len(boxes), -1) for c in columns]], axis=1)
    return table[np.lexsort(np.round(table, 2).T[::-1])]
