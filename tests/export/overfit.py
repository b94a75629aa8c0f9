"""Detectors that are sure of what they see: each overfitted on eight images of COCO, for exports.

    python -m tests.export.overfit IMAGES_AND_ANNOTATIONS runs/overfit [KIND …] [--hours 0.24]

IMAGES_AND_ANNOTATIONS is a folder with images/ and annotations/train.json. Every KIND becomes a run
folder; one that was stopped is resumed, and one that is complete is left as it is. A check of an
export then has confident detections:

    resdet export runs/overfit/cascade cascade.onnx --dynamic --check DATA/images
"""

import argparse
import json
from pathlib import Path
from typing import Any

import resdet
from resdet.config.loading import config_from_dict
from resdet.files.writing import write_json
from tests.models.tiny import merged

IMAGES = 8
SIZE = {"short_edge": 224, "max_size": 320}
STAGES = [
    {"foreground_iou": iou, "box_weights": [10 * stage, 10 * stage, 5 * stage, 5 * stage]}
    for stage, iou in enumerate((0.5, 0.6, 0.7), 1)
]
TORCHVISION = {
    "min_detection_size": 1e-2,
    "rpn": {"round_anchors": True, "anchor_spacing": "rounded", "min_size": 1e-3},
    "roi": {
        "aligned": False,
        "sampling_ratio": 2,
        "mask_head": {"paste": "rounded"},
    },
}
DETECTRON2 = {
    "channel_order": "bgr",
    "pixel_mean": [103.53, 116.28, 123.675],
    "pixel_std": [1.0, 1.0, 1.0],
    "backbone": {"stride_in_1x1": True},
}
KINDS: dict[str, dict[str, Any]] = {
    "mask_torchvision": TORCHVISION,
    "mask_detectron2": DETECTRON2,
    "cascade": {"roi": {"stages": STAGES, "box_head": {"class_agnostic": True}}},
    "c4": {
        "fpn": None,
        "rpn": {"anchor_sizes": [[32, 64, 128, 256, 512]]},
        "roi": {
            "box_head": {"type": "res5", "num_fcs": 0, "pool_size": 14},
            "mask_head": {"num_convs": 0, "pool_size": 14},
        },
    },
    "faster": {"roi": {"mask_head": None}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", type=Path, help="a folder with images/ and annotations/train.json")
    parser.add_argument("out", type=Path, help="the folder of the runs")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--hours", type=float, default=0.24, help="per run, default %(default)s")
    args = parser.parse_args()
    for kind in args.kinds or KINDS:
        overfit(kind, args.data, args.out, hours=args.hours)


def overfit(kind: str, data: Path, out: Path, *, hours: float, **train: Any) -> Path:
    """Train the detector `kind` on the first images of `data` with objects; its run folder."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out / kind
    if (folder / "config.yaml").is_file():
        return resdet.train(None, run_dir=folder, resume=True)
    config = settings(kind, data / "images", few(data / "annotations/train.json", out))
    config["train"] |= {"max_hours": hours, **train}
    return resdet.train(config_from_dict(config, f"the settings of {kind}"), run_dir=folder)


def few(annotations: Path, out: Path) -> Path:
    """A COCO file of `IMAGES` images with two to five objects, those with the largest ones."""
    values = json.loads(annotations.read_text())
    areas: dict[int, list[float]] = {}
    for each in values["annotations"]:
        areas.setdefault(each["image_id"], []).append(each["area"])
    images = [each for each in values["images"] if 2 <= len(areas.get(each["id"], [])) <= 5]
    images.sort(key=lambda each: -min(areas[each["id"]]) / (each["width"] * each["height"]))
    ids = {each["id"] for each in images[:IMAGES]}
    objects = [each for each in values["annotations"] if each["image_id"] in ids]
    used = {each["category_id"] for each in objects}
    values |= {
        "images": images[:IMAGES],
        "annotations": objects,
        "categories": [each for each in values["categories"] if each["id"] in used],
    }
    return write_json(out / "eight.json", values)


def settings(kind: str, images: Path, annotations: Path) -> dict[str, Any]:
    """The config of a run, from random weights: eight images need no others."""
    truth = {"images": str(images), "annotations": str(annotations)}
    model = merged(
        {
            "backbone": {"name": "resnet50", "norm": "bn"},
            "rpn": {"post_nms_topk_train": 500},
            # most of a step's time is the mask head's, of the positive ones
            "roi": {"num_samples": 64, "mask_head": {"num_convs": 4, "conv_dim": 256}},
        },
        KINDS[kind],
    )
    resize = {"short_edges": [SIZE["short_edge"]], "max_size": SIZE["max_size"]}
    test_resize: dict[str, Any] = dict(SIZE)
    if kind == "mask_torchvision":
        test_resize["method"] = "float"
    return {
        "task": "detection",
        "model": model,
        "data": {
            "train": truth,
            "val": truth,
            "workers": 0,
            "augment": {"resize": resize, "flip_prob": 0.0},
            "test_resize": test_resize,
        },
        "optim": {
            "lr": 0.02,
            "reference_batch": 4,
            "schedule": "cosine",
            "warmup_steps": 50,
            "clip_norm": 10,
        },
        "train": {"max_steps": 300, "batch_size": 2, "threads": 1},
        "eval": {"every": 150},
        "checkpoint": {"every": 50},
    }


if __name__ == "__main__":
    main()
