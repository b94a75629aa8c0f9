"""Detectron2's detectors and ImageNet backbones, read and written.

`detectron2:COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x` names one of its model zoo; a file's
name may be such a name, or the YAML config that Detectron2 trained it by. Without one the file's
tensors tell the network, and what they can't tell is as in Detectron2's default config.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.interop.coco_classes import CITYSCAPES_CATEGORIES, COCO_CATEGORIES, VOC_NAMES
from resdet.interop.detectron2 import zoo
from resdet.interop.detectron2.config import from_detectron2, to_detectron2
from resdet.interop.detectron2.names import from_caffe2, our_name, their_name
from resdet.interop.detectron2.settings import nested, read_yaml
from resdet.interop.loaded import LoadedWeights

logger = logging.getLogger("resdet")

PREFIX = "detectron2:"
# Constants of the config, which older files hold beside the weights.
CONSTANTS = re.compile(r"(^|\.)(cell_anchors\.\d+|pixel_mean|pixel_std|num_batches_tracked)$")
# Of ImageNet networks: the classifier, and a bias of the stem that Detectron2 leaves out as well.
BACKBONE_REST = ("fc1000", "pred", "stem.fc", "stem.conv1.bias", "fc.", "linear")
BLOCKS_OF_RES4 = {2: 18, 6: 50, 23: 101, 36: 152}
"""Residual blocks of res4: the depth (34 has 6 blocks too, of another kind)."""


def fetch(name: str) -> Path:
    """The local file of zoo model `name`, downloaded once; UserError with near names otherwise."""
    from resdet.interop import download

    name = check_name(name)
    end = zoo.BACKBONES.get(name) or f"{name}/{zoo.FILES[name]}"
    path = download.cache_folder() / "detectron2" / end
    return download.fetch(zoo.ADDRESS + end, path, sha256=None, spec=PREFIX + name)


def check_name(name: str) -> str:
    """`name` as the zoo has it, without .yaml or .py; UserError with near names for another."""
    name = re.sub(r"\.(yaml|py)$", "", name.removeprefix(PREFIX))
    known = [*zoo.FILES, *zoo.BACKBONES]
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"for example {known[0]}"
    raise UserError(f"{PREFIX}{name}: resdet knows no such model of Detectron2's zoo; {hint}")


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are the names of one of Detectron2's detectors, or of a backbone of its."""
    names = [from_caffe2(key) for key in state]
    return any(name.startswith("proposal_generator.") for name in names) or (
        any(name.startswith("stem.conv1.") for name in names)
        and any(name.startswith("res2.0.") for name in names)
    )


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The detector or backbone in `values`, the tensors by Detectron2's names.

    `name` is one of the zoo, or a YAML config of Detectron2's; None reads what the tensors tell.
    Raises UserError for tensors that are none of the network's, and for settings resdet lacks.
    """
    state = {from_caffe2(key): value for key, value in values.items() if isinstance(value, Tensor)}
    if not any(key.startswith("proposal_generator.") for key in state):
        is_gn = any("_gn_" in key for key in values) or "GN" in (name or "")
        return _backbone(state, is_gn, source)
    state = {key: value for key, value in state.items() if not CONSTANTS.search(key)}
    settings, known = _settings(values, state, name, source)
    given = from_detectron2(settings, source)
    if known.endswith("_LSJ"):
        resize = {"mode": "large_scale_jitter", "lsj_size": zoo.LSJ_SIZE}
        given["data"]["augment"]["resize"] = resize
    config = config_from_dict(given, source)
    assert isinstance(config, DetectionConfig)
    num_classes = settings.get("MODEL.ROI_HEADS.NUM_CLASSES", 80)
    names, ids = _classes(num_classes, known)
    renamed = {our_name(key): value for key, value in state.items()}
    return LoadedWeights(renamed, "detector", config_to_dict(config), source, names, ids)


def _settings(
    values: Mapping[str, Any], state: Mapping[str, Tensor], name: str | None, source: str
) -> tuple[dict[str, Any], str]:
    """Detectron2's settings of the network, and the zoo's name where it is known, else "".

    Without a name its config may lie beside it.
    """
    beside = None if name else _config_beside(Path(source))
    if beside is not None:
        logger.info("%s: its config is %s beside it", source, beside.name)
        return read_yaml(beside), ""
    if not name:
        settings = told_by(state, source)
        for key in ("pixel_mean", "pixel_std"):
            if isinstance(values.get(key), Tensor):
                numbers = values[key].double().flatten().tolist()
                settings[f"MODEL.{key.upper()}"] = [round(number, 4) for number in numbers]
        logger.info(
            "%s: read as one of Detectron2's detectors without its name; what no tensor tells is "
            "as in its default config (channels BGR, no deviation, strides in 1×1 convolutions, "
            "800 pixels); give its name, or its config.yaml, where it was trained otherwise",
            source,
        )
        return settings, ""
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return read_yaml(Path(name)), ""
    known = check_name(name)
    if known in zoo.BACKBONES:
        raise UserError(f"{source} holds a detector, and {known} is a backbone; leave the name out")
    return zoo.settings(known), known


def _config_beside(path: Path) -> Path | None:
    """Detectron2's config of the file `path`: of its own name, as `convert.py` writes it, or
    config.yaml, as Detectron2 leaves it in its output folder; None for YAMLs of others."""
    for found in (path.with_suffix(".yaml"), path.with_name("config.yaml")):
        if found.is_file() and any(key.startswith("MODEL.") for key in read_yaml(found)):
            return found
    return None


def told_by(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The settings that names and shapes tell of a detector, by dotted keys.

    Raises UserError where a part is missing.
    """
    has_fpn = any(key.startswith("backbone.bottom_up.") for key in state)
    is_c4 = any(key.startswith("roi_heads.res5.") for key in state)
    if not has_fpn and not is_c4:
        found: dict[str, Any] = dict(zoo.DC5)
    else:
        found = dict(zoo.FPN) if has_fpn else {}
    found |= zoo.MULTI_SCALE
    body = "backbone.bottom_up." if has_fpn else "backbone."
    found["MODEL.RESNETS.DEPTH"] = _depth(state, body, source)
    norm = _norm_of(state, f"{body}stem.conv1.norm")
    found["MODEL.RESNETS.NORM"] = "FrozenBN" if norm == "SyncBN" else norm
    found["MODEL.RPN.CONV_DIMS"] = [-1] * max(1, _count(state, r"rpn_head\.conv\.conv\d\.weight"))
    found["MODEL.ROI_HEADS.NUM_CLASSES"] = len(_one(state, "cls_score.weight", source)) - 1
    num_stages = _count(state, r"roi_heads\.box_predictor\.\d\.cls_score\.weight")
    if num_stages > 1:
        found |= zoo.CASCADE
    if has_fpn:
        lateral = _one(state, "backbone.fpn_lateral5.weight", source)
        found["MODEL.FPN.OUT_CHANNELS"] = len(lateral)
        found["MODEL.FPN.NORM"] = _norm_of(state, "backbone.fpn_lateral5.norm")
        if found["MODEL.FPN.NORM"] == "SyncBN":
            # whoever trains the pyramid's statistics trains the backbone's
            found |= {"MODEL.RESNETS.NORM": "SyncBN", "MODEL.BACKBONE.FREEZE_AT": 0}
    if not is_c4:
        found |= _told_by_box_head(state, num_stages, source)
    deltas = len(_one(state, "bbox_pred.weight", source))
    found["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = deltas == 4
    return found | _told_by_mask_head(state, source)


def _told_by_box_head(state: Mapping[str, Tensor], num_stages: int, source: str) -> dict[str, Any]:
    head = "roi_heads.box_head." + ("0." if num_stages > 1 else "")
    num_convs = _count(state, re.escape(head) + r"conv\d\.weight")
    found: dict[str, Any] = {
        "MODEL.ROI_BOX_HEAD.NUM_CONV": num_convs,
        "MODEL.ROI_BOX_HEAD.NUM_FC": _count(state, re.escape(head) + r"fc\d\.weight"),
        "MODEL.ROI_BOX_HEAD.FC_DIM": len(_one(state, head + "fc1.weight", source)),
        "MODEL.ROI_BOX_HEAD.NORM": _norm_of(state, f"{head}conv1.norm"),
    }
    if num_convs:
        found["MODEL.ROI_BOX_HEAD.CONV_DIM"] = len(_one(state, head + "conv1.weight", source))
    return found


def _told_by_mask_head(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    head = "roi_heads.mask_head."
    if not any(key.startswith(head) for key in state):
        return {"MODEL.MASK_ON": False}
    predictor = _one(state, head + "predictor.weight", source)
    return {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": _count(state, re.escape(head) + r"mask_fcn\d\.weight"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": predictor.shape[1],
        "MODEL.ROI_MASK_HEAD.NORM": _norm_of(state, f"{head}mask_fcn1.norm"),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": len(predictor) == 1
        and len(_one(state, "cls_score.weight", source)) > 2,
    }


def _depth(state: Mapping[str, Tensor], body: str, source: str) -> int:
    blocks = _count(state, re.escape(body) + r"res4\.\d+\.conv1\.weight")
    is_bottleneck = f"{body}res4.0.conv3.weight" in state
    depth = BLOCKS_OF_RES4.get(blocks)
    if depth == 50 and not is_bottleneck:
        depth = 34
    if depth is None or is_bottleneck != (depth >= 50):
        raise UserError(f"{source}: a res4 of {blocks} blocks is no ResNet-18, 34, 50, 101 or 152")
    return depth


def _norm_of(state: Mapping[str, Tensor], name: str) -> str:
    if f"{name}.running_mean" in state:
        return "SyncBN"
    return "GN" if f"{name}.weight" in state else ""


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(1 for key in state if re.search(pattern + "$", key))


def _one(state: Mapping[str, Tensor], end: str, source: str) -> Tensor:
    for key, value in state.items():
        if key.endswith(end):
            if value.ndim < 2:
                raise UserError(f"{source}: {key} has shape {tuple(value.shape)}; it is damaged")
            return value
    raise UserError(f"{source}: has no …{end}: it is cut short, or no detector of resdet's kind")


def _classes(count: int, name: str) -> tuple[list[str], list[int]]:
    """Names and original ids: COCO's for 80 classes, and of the zoo's other data sets."""
    if name.startswith("Cityscapes"):
        return [each for _, each in CITYSCAPES_CATEGORIES], [i for i, _ in CITYSCAPES_CATEGORIES]
    if name.startswith("PascalVOC"):
        return list(VOC_NAMES), list(range(1, 21))
    if count == len(COCO_CATEGORIES):
        return [each for _, each in COCO_CATEGORIES], [i for i, _ in COCO_CATEGORIES]
    return [f"class {number}" for number in range(1, count + 1)], list(range(1, count + 1))


def _backbone(state: Mapping[str, Tensor], is_gn: bool, source: str) -> LoadedWeights:
    """An ImageNet network without its classifier, as `model.backbone.weights` takes it.

    MSRA's networks have batch norms and strides in 1×1 convolutions, FAIR's with group norms not.
    """
    kept = {
        our_name(key): value
        for key, value in state.items()
        if not key.startswith(BACKBONE_REST) and not CONSTANTS.search(key)
    }
    if not any(key.startswith("layer1.0.") for key in kept):
        raise UserError(f"{source} holds neither a detector nor a ResNet of Detectron2's")
    model = {
        "backbone": {"stride_in_1x1": not is_gn},
        "channel_order": "bgr",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [1.0, 1.0, 1.0],
    }
    return LoadedWeights(
        kept if is_gn else _with_statistics(kept), "backbone", {"model": model}, source
    )


def _with_statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch norms that Caffe2 stored as scale and shift alone get mean 0 and variance 1."""
    found = dict(state)
    for key in state:
        name = key.removesuffix("weight")
        if re.search(r"(bn\d|downsample\.1)\.weight$", key) and f"{name}running_mean" not in state:
            found[f"{name}running_mean"] = torch.zeros_like(state[key])
            found[f"{name}running_var"] = torch.ones_like(state[key])
    return found


def exported(weights: LoadedWeights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A detector's tensors by Detectron2's names, and its config as nested sections.

    Raises UserError for what is no detector, and for options that Detectron2 lacks.
    """
    if weights.kind != "detector" or weights.config is None:
        raise UserError(f"{weights.source} is no detector with its config; Detectron2 takes these")
    config = config_from_dict(weights.config, weights.source)
    assert isinstance(config, DetectionConfig), "a detector has a detection config"
    settings = to_detectron2(config, len(weights.class_names), weights.source)
    state = {
        their_name(
            key,
            has_fpn=config.model.fpn is not None,
            num_rpn_convs=config.model.rpn.num_convs,
            num_stages=len(config.model.roi.stages),
        ): value
        for key, value in weights.state.items()
    }
    return state, nested(settings)
