"""torchvision's own detectors with seeded weights, small or as published, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor as BoxPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d

from resdet.factory.detection import build_trained
from resdet.interop.torchvision.detectors import NAMES, imported
from resdet.models.rcnn import RCNN
from resdet.ops.masks import _rounded_ends
from resdet.structures import Detections, ImageBatch, collate_images
from tests.fixtures.recipe import draw_state

KINDS = {name: (name.startswith("mask"), name.endswith("_v2")) for name in NAMES}
"""By torchvision's name: whether it has masks, and whether it is of the second version."""
CHANNELS = 32
SAME = 0.1
"""Pixels: boxes nearer than this are the same one."""
LARGE = 1000
"""Pixels of a mask whose IoU is told; of smaller ones a pixel or two may lie on the threshold."""
# Deviations that predictors are scaled to: scores are then neither ties nor all alike.
SPREADS = {
    "rpn.head.cls_logits": 1.5,
    "rpn.head.bbox_pred": 0.3,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 1.0,
    "roi_heads.mask_predictor.mask_fcn_logits": 2.0,
}


def tiny(name: str, num_classes: int = 4, depth: int = 18, **options: Any) -> FasterRCNN:
    """The architecture `name` with 32 channels on a ResNet-18; `num_classes` with background."""
    masks, is_v2 = KINDS[name]
    norm = nn.BatchNorm2d if is_v2 else FrozenBatchNorm2d
    body = getattr(resnet, f"resnet{depth}")(norm_layer=norm)
    width = body.layer1[0].conv1.out_channels * (1 if depth < 50 else 4)
    backbone = BackboneWithFPN(
        body,
        {f"layer{stage}": str(stage - 1) for stage in range(1, 5)},
        [width * 2**i for i in range(4)],
        CHANNELS,
        norm_layer=norm if is_v2 else None,
    )
    heads: dict[str, Any] = {
        "rpn_head": RPNHead(CHANNELS, 3, conv_depth=2 if is_v2 else 1),
        "box_head": FastRCNNConvFCHead((CHANNELS, 7, 7), [CHANNELS] * 4, [64], norm_layer=norm)
        if is_v2
        else TwoMLPHead(CHANNELS * 49, 64),
        "box_predictor": BoxPredictor(64, num_classes),
    }
    if masks:
        layers = [CHANNELS] * 4
        heads["mask_head"] = MaskRCNNHeads(CHANNELS, layers, 1, norm_layer=norm if is_v2 else None)
        heads["mask_predictor"] = MaskRCNNPredictor(CHANNELS, CHANNELS, num_classes)
    return (MaskRCNN if masks else FasterRCNN)(backbone, **heads, **options)


def published(name: str, state: dict[str, Tensor] | None, **options: Any) -> FasterRCNN:
    """What torchvision makes of its weights COCO_V1, with `state` in their place; None loads
    nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: state)
        if state is None:
            patch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
        maker = getattr(torchvision.models.detection, name)
        model: FasterRCNN = maker(weights="COCO_V1", **options)
    return model


def fill(model: FasterRCNN, seed: int, images: Sequence[Tensor]) -> None:
    """Seeded weights: He-scaled, residual branches tamed, predictors scaled on `images`."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(v)) for key, v in draw_state(seed, shapes).items()}
    last = "bn3" if "backbone.body.layer1.0.bn3.weight" in state else "bn2"
    for key, value in state.items():
        if "layer" in key and key.endswith(f"{last}.weight"):
            value *= 0.3
        if key.endswith("num_batches_tracked"):
            value.zero_()
    model.load_state_dict(state)
    hooks = [model.get_submodule(n).register_forward_hook(_scale(s)) for n, s in _spreads(model)]
    model.eval()
    with torch.no_grad():
        model(list(images))
    for hook in hooks:
        hook.remove()


def _spreads(model: nn.Module) -> list[tuple[str, float]]:
    own = dict(model.named_modules())
    return [(name, spread) for name, spread in SPREADS.items() if name in own]


def _scale(spread: float) -> Any:
    done: list[float] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not done and output.numel():
            done.append(spread / float(output.std()))
            for parameter in module.parameters():
                parameter.mul_(done[0])
        return output * done[0] if done else output

    return hook


def ours(model: FasterRCNN, changes: dict[str, Any] | None = None) -> RCNN:
    """resdet's detector of the same weights, through the importer; `changes` go into its config.

    What no tensor tells (sizes, numbers of proposals, eps) is taken over from `model`.
    """
    loaded = imported(model.state_dict(), None, "the test")
    rpn, heads, resize = model.rpn, model.roi_heads, model.transform
    norm_eps = [m.eps for m in model.backbone.modules() if isinstance(m, FrozenBatchNorm2d)]
    overrides = {
        "data.test_resize.short_edge": resize.min_size[-1],
        "data.test_resize.max_size": resize.max_size,
        "model.rpn.pre_nms_topk_train": rpn._pre_nms_top_n["training"],
        "model.rpn.pre_nms_topk_test": rpn._pre_nms_top_n["testing"],
        "model.rpn.post_nms_topk_train": rpn._post_nms_top_n["training"],
        "model.rpn.post_nms_topk_test": rpn._post_nms_top_n["testing"],
        "model.rpn.num_samples": rpn.fg_bg_sampler.batch_size_per_image,
        "model.rpn.positive_fraction": rpn.fg_bg_sampler.positive_fraction,
        "model.roi.num_samples": heads.fg_bg_sampler.batch_size_per_image,
        "model.roi.positive_fraction": heads.fg_bg_sampler.positive_fraction,
        "model.score_thresh": heads.score_thresh,
        "model.detections_per_image": heads.detections_per_img,
        "train.precision": "fp32",
        **({"model.backbone.norm_eps": norm_eps[0]} if norm_eps else {}),
        **(changes or {}),
    }
    return build_trained(loaded, [f"{key}={value}" for key, value in overrides.items()])


def their_stages(model: FasterRCNN, image: np.ndarray) -> dict[str, Any]:
    """What torchvision computes of one (H, W, 3) uint8 image, a stage each, background last."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.update({name: output})

    parts = {"features": model.backbone, "rpn": model.rpn, "box": model.roi_heads.box_predictor}
    if model.roi_heads.has_mask():
        parts["mask"] = model.roi_heads.mask_predictor
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    with torch.no_grad():
        [result] = model([torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))])
    for hook in hooks:
        hook.remove()
    logits, deltas = found["box"]
    stages = {
        "features": list(found["features"].values()),
        "proposals": found["rpn"][0][0],
        "class logits": torch.cat([logits[:, 1:], logits[:, :1]], dim=1),
        "deltas": deltas.unflatten(1, (-1, 4))[:, 1:],
        "boxes": result["boxes"],
        "scores": result["scores"],
        "labels": result["labels"] - 1,
    }
    if "mask" in found:
        rows = torch.arange(len(result["labels"]))
        stages["mask logits"] = found["mask"][rows, result["labels"]]
        stages["masks"] = result["masks"][:, 0] > 0.5
    return stages


@torch.no_grad()
def our_stages(model: RCNN, image: np.ndarray) -> dict[str, Any]:
    """The same of resdet's detector, on its own proposals and boxes, and through `predict`."""
    batch: ImageBatch = collate_images([model.prepare(image)], model.size_divisibility)
    pyramid = list(model.pyramid(model.normalize(batch)).values())
    proposals, _ = model.rpn(pyramid, batch.sizes, None)
    boxes = proposals.boxes[0][proposals.valid[0]]
    heads, levels = model.roi_heads, pyramid
    images = torch.zeros(len(boxes), dtype=torch.int64)
    logits, deltas = heads.box_heads[0](
        heads.features(levels).pool(boxes, images, heads.box_pool_size)
    )
    masks: list[Tensor] = []
    hook = None
    if (mask_head := heads.branches.get("mask_head")) is not None:
        hook = mask_head.register_forward_hook(lambda *call: masks.append(call[2]))
    found = model.predict(image)
    assert isinstance(found, Detections)
    stages = {
        "features": pyramid,
        "proposals": boxes,
        "class logits": logits,
        "deltas": deltas,
        "boxes": found.boxes,
        "scores": found.scores,
        "labels": found.labels,
    }
    if hook is not None:
        hook.remove()
        stages |= {"mask logits": masks[0], "masks": found.masks}
    return stages


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, float]:
    """Largest difference of every stage; of pasted masks 1 − the least IoU of large ones.

    Features, logits and deltas are relative to the largest value of their stage, boxes in pixels.
    Proposals and detections are compared with the nearest of the other side: two whose scores
    agree to the last digits may have changed places, and "… out of place" counts these. One whose
    IoU is the NMS's threshold but for rounding may be "of one side" only. Masks are put into whole
    pixels, and a box of which one edge rounds otherwise gives a mask resized otherwise: these are
    counted as "of other pixels" and left out.
    """
    found = {}
    pairs = list(zip(theirs["features"], ours["features"], strict=True))
    found["features"] = max(_gap(a, b) / float(a.abs().max()) for a, b in pairs)
    rows, shared = _nearest(theirs["proposals"], ours["proposals"])
    found["proposals"] = _gap(theirs["proposals"][shared], ours["proposals"][rows[shared]])
    found["proposals of one side"] = float((~shared).sum())
    found["proposals out of place"] = _moved(rows[shared])
    for stage in ("class logits", "deltas"):
        found[stage] = _relative_gap(theirs[stage][shared], ours[stage][rows[shared]])
    # classes far apart, so that the nearest is of the same one
    there, here = (
        torch.cat([each["boxes"], 1e5 * each["labels"][:, None]], dim=1) for each in (theirs, ours)
    )
    rows, shared = _nearest(there, here)
    found["detections of one side"] = float((~shared).sum())
    there, rows = there[shared], rows[shared]
    found["detections out of place"] = _moved(rows)
    found["boxes"] = _gap(there, here[rows])
    found["scores"] = _gap(theirs["scores"][shared], ours["scores"][rows])
    if "masks" in theirs and len(theirs["masks"]):
        found["mask logits"] = _relative_gap(
            theirs["mask logits"][shared], ours["mask logits"][rows]
        )
        masks = [theirs["masks"][shared], ours["masks"][rows]]
        both = (masks[0] & masks[1]).sum(dim=(1, 2))
        either = (masks[0] | masks[1]).sum(dim=(1, 2))
        ends = [
            torch.cat(_rounded_ends(each, 28), dim=1) for each in (there[:, :4], here[rows, :4])
        ]
        same = (ends[0] == ends[1]).all(dim=1)
        found["masks of other pixels"] = float((~same).sum())
        either, both = either[same], both[same]
        large = either >= LARGE
        found["masks, 1 - IoU"] = float((1 - both / either)[large].max()) if large.any() else 0.0
        found["pixels off in a mask"] = float((either - both).max()) if same.any() else 0.0
    return found


def _nearest(there: Tensor, here: Tensor) -> tuple[Tensor, Tensor]:
    """The row of `here` nearest to each of `there`, both (N, D), one to one, nearest pairs first;
    and whether it is the same one."""
    assert there.shape == here.shape, f"{len(there)} there, {len(here)} here"
    gaps = torch.cdist(there, here, p=float("inf"))
    rows = torch.zeros(len(there), dtype=torch.int64)
    shared = torch.zeros(len(there), dtype=torch.bool)
    for row in gaps.amin(dim=1).argsort() if len(there) else []:
        gap, rows[row] = gaps[row].min(dim=0)
        shared[row] = gap < SAME
        gaps[:, rows[row]] = torch.inf
    return rows, shared


def _moved(rows: Tensor) -> float:
    """How many are not in the order of the other side, whoever is missing there."""
    return float((rows.argsort() != torch.arange(len(rows))).sum())


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max()) if a.numel() else 0.0


def _relative_gap(a: Tensor, b: Tensor) -> float:
    return _gap(a, b) / float(a.abs().max())
