"""A small real detector with random weights, and its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from resdet.config.loading import config_from_dict, config_to_dict
from resdet.factory import build_model
from resdet.models.rcnn import RCNN

VALUES: dict[str, Any] = {
    "model": {
        "backbone": {"name": "resnet18"},
        "fpn": {"out_channels": 16},
        "rpn": {"post_nms_topk_test": 50, "pre_nms_topk_test": 50},
        "roi": {
            "box_head": {"fc_dim": 32},
            "mask_head": {"num_convs": 1, "conv_dim": 8},
        },
        "score_thresh": 0.0,
        "detections_per_image": 10,
    },
    "data": {"test_resize": {"short_edge": 96, "max_size": 160}},
    "train": {"epochs": 1, "precision": "fp32"},
}


def make_detector() -> RCNN:
    torch.manual_seed(0)
    config = config_from_dict(VALUES, "the test")
    return build_model(config, class_names=["cell", "dirt"], category_ids=[7, 30]).eval()


def write_checkpoint(path: Path, model: RCNN, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "format": 1,
            "kind": "detector",
            "resdet_version": "0.1.0",
            "config": config_to_dict(model.config),
            "class_names": model.class_names,
            "category_ids": model.category_ids,
            "step": 3,
            "model": model.state_dict(),
            "ema": None,
            **more,
        },
        path,
    )
    return path
