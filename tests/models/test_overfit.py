"""A Mask R-CNN learns eight COCO images by heart, through the whole of train and evaluate."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pycocotools.coco import COCO

import resdet
from resdet.engine.evaluate_detection import evaluate_run

# Two with crowd regions (RLE) and many objects, six with few.
IMAGE_IDS = (195851, 313789, 13473, 52016, 65716, 67414, 70197, 71828)
OVERRIDES = [
    "train.max_steps=450",
    f"train.threads={os.cpu_count()}",
    "eval.every=0",
    "checkpoint.every=150",
    "eval.val_loss=false",
    "eval.max_dets=[1,10,100]",
    "model.detections_per_image=100",
    "model.rpn.anchor_sizes=[16,32,64,128,256]",
    "model.roi={num_samples: 128, box_head: {fc_dim: 256}, mask_head: {conv_dim: 64}}",
    "data.augment.resize={short_edges: [384], max_size: 640}",
    "data.augment.flip_prob=0",
    "data.augment.vertical_flip_prob=0",
    "data.test_resize={short_edge: 384, max_size: 640}",
]


def eight_images(shared_data: Path, folder: Path) -> Path:
    """Annotations of the eight, every second object as RLE instead of polygons."""
    source = COCO(str(shared_data / "coco128_inst" / "annotations" / "train.json"))
    content = dict(source.dataset)
    content["images"] = [image for image in content["images"] if image["id"] in IMAGE_IDS]
    content["annotations"] = [
        {**a, "segmentation": as_json_rle(source, a)} if a["id"] % 2 and not a["iscrowd"] else a
        for a in content["annotations"]
        if a["image_id"] in IMAGE_IDS
    ]
    used = {a["category_id"] for a in content["annotations"]}
    content["categories"] = [c for c in content["categories"] if c["id"] in used]
    assert any(a["iscrowd"] for a in content["annotations"])
    file = folder / "eight.json"
    file.write_text(json.dumps(content))
    return file


def as_json_rle(source: COCO, annotation: dict) -> dict:
    rle = source.annToRLE(annotation)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


@pytest.mark.slow
def test_eight_coco_images_are_learned_by_heart(shared_data: Path, tmp_path: Path) -> None:
    images = shared_data / "coco128_inst" / "images"
    annotations = eight_images(shared_data, tmp_path)
    data = [f"data.{split}.images={images}" for split in ("train", "val")]
    data += [f"data.{split}.annotations={annotations}" for split in ("train", "val")]
    run = resdet.train("demo_nuclei", [*OVERRIDES, *data], run_dir=tmp_path / "run")
    _, validation = evaluate_run(run)
    box, mask = validation.result.summary["bbox"], validation.result.summary["segm"]
    assert box["AP"] >= 0.8
    assert mask["AP50"] >= 0.95
    assert mask["AP"] >= 0.6
