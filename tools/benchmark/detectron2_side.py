"""Detectron2's Mask R-CNN for the benchmark, where it can be imported."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.benchmark.detectors import autocast, dense_masks, load_scene, training_step
from tools.benchmark.turns import Step


def is_installed() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def _model(scene: dict[str, Any], device: str) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """The model of the weights in its layout, and what turns an RGB image into its input."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    path = Path(scene["detectron2"])
    cfg = get_cfg()
    cfg.merge_from_file(str(path.with_suffix(".yaml")))
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = scene["score_thresh"]
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(str(path))
    is_rgb = cfg.INPUT.FORMAT == "RGB"
    return model, lambda image: image if is_rgb else image.flip(0)


def make_inference(*, scene: str, device: str, precision: str) -> tuple[Step, str]:
    """What its DefaultPredictor does after the resize, masks pasted."""
    found = load_scene(scene)
    model, ordered = _model(found, device)
    model.eval()
    context = autocast(precision, device)
    images: Tensor = found["images"]
    height, width = images.shape[2:]
    batches = itertools.cycle(images.split(found["batch_size"]))

    def step() -> Any:
        given = [
            {"image": ordered(image), "height": height, "width": width} for image in next(batches)
        ]
        with torch.no_grad(), context():
            return [each["instances"].pred_masks for each in model(given)]

    return step, ""


def make_training(*, scene: str, device: str, precision: str) -> tuple[Step, str]:
    """A step of its trainer on bitmasks, from its mapper's records to the new weights."""
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    found = load_scene(scene)
    model, ordered = _model(found, device)
    model.train()
    context = autocast(precision, device)
    images: Tensor = found["images"][: found["batch_size"]]
    given = []
    for row, image in enumerate(images):
        instances = Instances(tuple(image.shape[1:]))
        instances.gt_boxes = Boxes(found["boxes"][row])
        instances.gt_classes = found["labels"][row]
        instances.gt_masks = BitMasks(dense_masks(found, row).bool())
        given.append({"image": ordered(image), "instances": instances})
    storage = EventStorage()

    def losses() -> Tensor:
        with storage, context():
            return torch.stack(list(model(given).values())).sum()

    return training_step(model, losses), ""
