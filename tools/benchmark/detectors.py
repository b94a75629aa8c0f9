"""Mask R-CNN R50-FPN of resdet, torchvision and Detectron2 on the same images and weights.

Every contender is built from one state dict in torchvision's layout, so that work and results are
the same; Detectron2's conventions differ (`docs/results.md`), and it gets the same weights in its
own layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from resdet import hardware
from resdet.data.detection.batches import Batch
from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.factory.detection import build_trained
from resdet.inference.exported import ExportedDetector
from resdet.interop.weights import read_weights
from resdet.memory import keep_memory
from resdet.models.predict import inference_mode
from resdet.models.rcnn import RCNN
from resdet.structures import ImageBatch, TargetBatch, collate_images
from tools.benchmark.turns import Step

SOURCE = "torchvision"
MASK_SIZE = 112
LR = 1e-4
"""Of the training steps that are timed: small, so that the weights stay what they are."""


def torchvision_model(num_classes: int, depth: int = 50, **options: Any) -> MaskRCNN:
    """As `maskrcnn_resnet50_fpn` with its published weights, on a ResNet of `depth`: frozen batch
    norm, three stages of the backbone trained. `num_classes` without the background."""
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{depth}",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        trainable_layers=3,
    )
    return MaskRCNN(backbone, num_classes + 1, **options)


def load_scene(path: str) -> dict[str, Any]:
    """What `write_scene` in benchmark/scenes.py wrote; with a GPU, the images are in
    page-locked memory."""
    scene: dict[str, Any] = torch.load(path, weights_only=True)
    scene["images"] = pinned(scene["images"])
    return scene


def pinned(tensor: Tensor) -> Tensor:
    """In page-locked memory where there is a GPU, as what a loader gives."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def resdet_model(scene: dict[str, Any], overrides: list[str]) -> RCNN:
    # frozen as torchvision's is, whatever the weights were trained with
    given = ["model.backbone.norm=frozen_bn", f"model.score_thresh={scene['score_thresh']}"]
    given += overrides
    keep_memory()  # as the commands do
    model = build_trained(read_weights(scene["weights"], SOURCE), given)
    assert isinstance(model, RCNN)
    return model


def ways(device: torch.device, *, compiled: bool) -> dict[str, bool]:
    """Whether ours is compiled, by what the table calls it: eager, and `compiled` where it can."""
    if compiled and hardware.compile_fault(device) is None:
        return {"eager": False, "compiled": True}
    return {"eager": False}


def make_resdet_inference(
    *, scene: str, device: str, precision: str, compiled: bool
) -> tuple[Step, str]:
    """The part of `model.predict` from the resized image to detections with pasted masks."""
    found = load_scene(scene)
    model = resdet_model(found, [f"train.precision={precision}"])
    model.place(torch.device(device))
    model.set_compiled(compiled)
    return inference_step(model, found), ""


def inference_step(model: RCNN | ExportedDetector, scene: dict[str, Any]) -> Step:
    """One batch of the scene after the other, through `model` to masks pasted on its device."""
    images: Tensor = scene["images"]
    size = (images.shape[2], images.shape[3])
    batches = []
    for part in images.split(scene["batch_size"]):
        batch = collate_images(list(part), model.size_divisibility)
        batches.append(ImageBatch(pinned(batch.images), pinned(batch.sizes)))
    endless = itertools.cycle(batches)

    def step() -> Any:
        batch = next(endless)
        with inference_mode(model):
            found = model.infer(batch.to(model.device), [size] * len(batch.images))
        return [each.masks for each in found]

    return step


def make_torchvision_inference(*, scene: str, device: str, precision: str) -> tuple[Step, str]:
    found = load_scene(scene)
    model = torchvision_model(found["num_classes"], **torchvision_options(found))
    model.load_state_dict(torch.load(found["weights"], weights_only=True))
    model.eval().to(device)
    images: Tensor = found["images"]
    batches = itertools.cycle(images.split(found["batch_size"]))
    context = autocast(precision, device)

    def step() -> Any:
        batch = [image.to(device, non_blocking=True).float() / 255 for image in next(batches)]
        with torch.inference_mode(), context():
            return [each["masks"][:, 0] > 0.5 for each in model(batch)]

    return step, ""


def torchvision_options(scene: dict[str, Any]) -> dict[str, Any]:
    short, long = sorted(scene["images"].shape[2:])
    return {
        "depth": scene["depth"],
        "min_size": short,
        "max_size": long,
        "box_score_thresh": scene["score_thresh"],
    }


def make_resdet_training(
    *,
    scene: str,
    device: str,
    precision: str,
    compiled: bool,
    processes: Processes | None = None,
) -> tuple[Step, str]:
    """What `train_det.py` does for a step, from the batch of the loader to the new weights.

    As one of several `processes` it takes each step together with the others.
    """
    found = load_scene(scene)
    overrides = [f"train.precision={precision}", "model.backbone.freeze_at=2"]
    model = resdet_model(found, overrides)
    place = torch.device(device) if processes is None else processes.device
    hardware.set_determinism(model.config.train.deterministic, place)
    model.place(place)
    model.set_compiled(compiled)
    model.train()
    wrapped = model if processes is None else distributed.wrap(model, processes)
    batch = _batch(found)
    if place.type == "cuda":
        batch = batch.pin_memory()
    images, targets = batch.images, batch.targets
    chosen = hardware.choose_precision(precision, place)
    number = 0

    def losses() -> Tensor:
        nonlocal number
        number += 1
        with chosen.autocast():
            named = wrapped(images.to(place), targets.to(place), seed=0, step=number)
        return torch.stack(list(named.values())).sum()

    return training_step(model, losses), ""


def make_torchvision_training(*, scene: str, device: str, precision: str) -> tuple[Step, str]:
    found = load_scene(scene)
    model = torchvision_model(found["num_classes"], **torchvision_options(found))
    model.load_state_dict(torch.load(found["weights"], weights_only=True))
    model.train().to(device)
    context = autocast(precision, device)
    images: Tensor = found["images"][: found["batch_size"]]
    masks = [pinned(dense_masks(found, row)) for row in range(len(images))]

    def losses() -> Tensor:
        targets = [
            {
                "boxes": found["boxes"][row].to(device),
                "labels": found["labels"][row].to(device) + 1,
                "masks": masks[row].to(device, non_blocking=True),
            }
            for row in range(len(images))
        ]
        with context():
            named = model(
                [image.to(device, non_blocking=True).float() / 255 for image in images], targets
            )
        return torch.stack(list(named.values())).sum()

    return training_step(model, losses), ""


def training_step(model: nn.Module, losses: Callable[[], Tensor]) -> Step:
    """Losses, their gradients, and an update by SGD."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LR, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        losses().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _batch(scene: dict[str, Any]) -> Batch:
    count = scene["batch_size"]
    images: Tensor = scene["images"][:count]
    boxes, labels = scene["boxes"][:count], scene["labels"][:count]
    objects = boxes.shape[1]
    sizes = torch.tensor([list(images.shape[2:])] * count)
    rows = torch.arange(count * objects).view(count, objects)
    masks = _ellipses(MASK_SIZE).expand(count * objects, -1, -1).contiguous()
    valid = torch.ones(count, objects, dtype=torch.bool)
    keys = torch.arange(count)
    targets = TargetBatch(boxes, labels, valid, masks, rows, keys, keys >= 0, list(range(count)))
    numbers = list(range(count))
    return Batch(ImageBatch(images, sizes), targets, sizes.tolist(), [""] * count, numbers)


def _ellipses(size: int) -> Tensor:
    """(size, size) uint8: 1 inside the ellipse that touches the sides."""
    centers = (torch.arange(size) + 0.5) / size * 2 - 1
    return (centers[:, None] ** 2 + centers**2 <= 1).to(torch.uint8)


def dense_masks(scene: dict[str, Any], row: int) -> Tensor:
    """(G, H, W) uint8: the same ellipses at full size."""
    height, width = scene["images"].shape[2:]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    masks = []
    for x1, y1, x2, y2 in scene["boxes"][row].tolist():
        across = ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2
        down = ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2
        masks.append(down[:, None] + across <= 1)
    return torch.stack(masks).to(torch.uint8)


def autocast(precision: str, device: str) -> Callable[[], AbstractContextManager[None]]:
    """What torch offers the others for fp32 or bf16: a new context at each call."""
    if precision == "fp32":
        return nullcontext
    kind = torch.device(device).type
    return lambda: torch.autocast(kind, dtype=torch.bfloat16)


def save_seeded_weights(path: Path, num_classes: int, depth: int, seed: int) -> None:
    """Random weights in torchvision's layout."""
    torch.manual_seed(seed)
    torch.save(torchvision_model(num_classes, depth).state_dict(), path)


def score_at(scene: dict[str, Any], rank: int) -> float:
    """The score of which `rank` are at least as high in the first image, of all its classes."""
    model = resdet_model({**scene, "score_thresh": 0.0}, ["train.precision=fp32"])
    logits: list[Tensor] = []
    predictor = model.roi_heads.box_heads[0].cls_score
    hook = predictor.register_forward_hook(lambda *call: logits.append(call[2]))
    image: Tensor = scene["images"][0]
    with inference_mode(model):
        model.predict_prepared([image], [(image.shape[1], image.shape[2])])
    hook.remove()
    scores = logits[0].softmax(dim=-1)[:, :-1].flatten()
    return float(scores.topk(min(rank, len(scores))).values[-1])
