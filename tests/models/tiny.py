"""A small detector and real targets for the tests of models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.config.loading import config_from_dict
from resdet.factory import build_model
from resdet.models.rcnn import RCNN
from resdet.structures import ImageBatch, TargetBatch

MASK_SIZE = 112
SMALL = {
    "train": {"max_steps": 1},
    "model": {
        "backbone": {"name": "resnet18", "norm": "gn"},
        "fpn": {"out_channels": 16},
        "rpn": {"anchor_sizes": [16, 32, 64, 128, 256], "pre_nms_topk_train": 200,
                "post_nms_topk_train": 100, "pre_nms_topk_test": 100, "post_nms_topk_test": 50},
        "roi": {"num_samples": 32, "box_head": {"fc_dim": 32}, "mask_head": {"conv_dim": 16}},
    },
}  # fmt: skip


def merged(values: dict, changes: dict) -> dict:
    out = dict(values)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if nested else value
    return out


def tiny_model(changes: dict | None = None, classes: int = 2, seed: int = 0) -> RCNN:
    """A detector of resnet18 with 16 pyramid channels; `changes` are merged into its config."""
    torch.manual_seed(seed)
    config = config_from_dict(merged(SMALL, {"model": changes or {}}), "the test")
    names = [f"class {number}" for number in range(classes)]
    return build_model(config, class_names=names, category_ids=list(range(1, classes + 1)))


def nuclei_batch(
    nuclei: Path, keys: tuple[int, ...] = (0, 1), size: int = 128
) -> tuple[ImageBatch, TargetBatch]:
    """Corners of sample images with the nuclei that lie inside them, by hand: labels 0, 1, 0, …"""
    annotations = json.loads((nuclei / "annotations" / "train.json").read_text())
    images, boxes, masks = [], [], []
    for key in keys:
        entry = annotations["images"][key]
        pixels = np.array(Image.open(nuclei / "images" / entry["file_name"]).convert("RGB"))
        images.append(torch.from_numpy(pixels[:size, :size]).permute(2, 0, 1))
        own = [a for a in annotations["annotations"] if a["image_id"] == entry["id"]]
        inside = [a for a in own if a["bbox"][0] + a["bbox"][2] <= size]
        inside = [a for a in inside if a["bbox"][1] + a["bbox"][3] <= size][:12]
        boxes.append([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in inside)])
        for annotation in inside:
            x, y, w, h = (int(v) for v in annotation["bbox"])
            part = coco_mask.decode(annotation["segmentation"])[y : y + h, x : x + w]
            resized = Image.fromarray(part).resize((MASK_SIZE, MASK_SIZE), Image.Resampling.NEAREST)
            masks.append(torch.from_numpy(np.array(resized)))
    return pad_targets(images, boxes, masks, keys)


def pad_targets(images, boxes, masks, keys) -> tuple[ImageBatch, TargetBatch]:
    most = max(1, *(len(b) for b in boxes))
    count = len(boxes)
    padded, labels = torch.zeros(count, most, 4), torch.zeros(count, most, dtype=torch.int64)
    valid = torch.zeros(count, most, dtype=torch.bool)
    rows, first = torch.zeros(count, most, dtype=torch.int64), 0
    for image, own in enumerate(boxes):
        number = len(own)
        if number:
            padded[image, :number] = torch.tensor(own)
        labels[image, :number] = torch.arange(number) % 2
        valid[image, :number] = True
        rows[image, :number] = torch.arange(first, first + number)
        first += number
    stacked = torch.stack(masks) if masks else torch.zeros(1, MASK_SIZE, MASK_SIZE).byte()
    batch = ImageBatch(
        torch.stack(images), torch.tensor([[i.shape[1], i.shape[2]] for i in images])
    )
    return batch, TargetBatch(
        padded,
        labels,
        valid,
        stacked,
        rows,
        torch.tensor(keys),
        torch.ones(len(keys), dtype=torch.bool),
        [int(k) for k in keys],
    )
