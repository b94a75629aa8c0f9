"""Detectron2's detectors and ImageNet backbones, read and written.

`detectron2:COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x` is a model of its zoo. A file comes
with such a name, or with the YAML config it was trained with. Otherwise its tensors identify the
network, and what they can't show is as in Detectron2's default config.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError, did_you_mean
from resdet.files.cache import cache_folder
from resdet.interop import download
from resdet.interop.coco_classes import CITYSCAPES_CATEGORIES, COCO_CATEGORIES, VOC_CATEGORIES
from resdet.interop.detectron2 import zoo
from resdet.interop.detectron2.config import from_detectron2, to_detectron2
from resdet.interop.detectron2.names import from_caffe2, our_name, their_name
from resdet.interop.detectron2.settings import nested, read_yaml
from resdet.interop.files import count_names, find_matrix
from resdet.interop.loaded import LoadedWeights, numbered_classes

logger = logging.getLogger("resdet")

PREFIX = "detectron2:"
# Constants of the config, which older files store with the weights.
CONSTANTS = re.compile(r"(^|\.)(cell_anchors\.\d+|pixel_mean|pixel_std|num_batches_tracked)$")
# Of ImageNet networks: the classifier, and a bias of the stem that Detectron2 drops too.
BACKBONE_REST = ("fc1000", "pred", "stem.fc", "stem.conv1.bias", "fc.", "linear")
BLOCKS_OF_RES4 = {2: 18, 6: 50, 23: 101, 36: 152}
"""Depths by the residual blocks of res4 (34 has 6 too, but not bottlenecks)."""


def fetch(name: str) -> Path:
    """The local file of zoo model `name`, downloaded once; UserError as `check_name`."""
    name = check_name(name)
    end = zoo.BACKBONES.get(name) or f"{name}/{zoo.FILES[name]}"
    path = cache_folder() / "detectron2" / end
    return download.fetch(zoo.ADDRESS + end, path, sha256=None, spec=PREFIX + name)


def check_name(name: str) -> str:
    """`name` as in the zoo, without .yaml or .py; UserError with similar names for others."""
    name = re.sub(r"\.(yaml|py)$", "", name.removeprefix(PREFIX))
    known = [*zoo.FILES, *zoo.BACKBONES]
    if name in known:
        return name
    hint = did_you_mean(name, known, f"for example {known[0]}", cutoff=0.5)
    raise UserError(f"{PREFIX}{name}: resdet supports no such model of Detectron2's zoo; {hint}")


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of a detector or a backbone of Detectron2."""
    names = [from_caffe2(key) for key in state]
    return any(name.startswith("proposal_generator.") for name in names) or (
        any(name.startswith("stem.conv1.") for name in names)
        and any(name.startswith("res2.0.") for name in names)
    )


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The detector or backbone in `values`, tensors under Detectron2's names.

    `name` is a model of the zoo or a YAML config of Detectron2; None is a config stored next to the
    file `source`, else the network that the tensors identify.
    Raises UserError for tensors of another network, and for settings that resdet lacks.
    """
    state = {from_caffe2(key): value for key, value in values.items() if isinstance(value, Tensor)}
    if not any(key.startswith("proposal_generator.") for key in state):
        is_gn = any("_gn_" in key for key in values) or "GN" in (name or "")
        return _backbone(state, is_gn, source)
    state = {key: value for key, value in state.items() if not CONSTANTS.search(key)}
    settings, zoo_name = _settings(values, state, name, source)
    given = from_detectron2(settings, source)
    if zoo_name.endswith("_LSJ"):
        resize = {"mode": "large_scale_jitter", "lsj_size": zoo.LSJ_SIZE}
        given["data"]["augment"]["resize"] = resize
    config = config_from_dict(given, source)
    assert isinstance(config, DetectionConfig)
    num_classes = settings.get("MODEL.ROI_HEADS.NUM_CLASSES", 80)
    names, ids = _classes(num_classes, zoo_name)
    renamed = {our_name(key): value for key, value in state.items()}
    return LoadedWeights(renamed, "detector", config_to_dict(config), source, names, ids)


def _settings(
    values: Mapping[str, Any], state: Mapping[str, Tensor], name: str | None, source: str
) -> tuple[dict[str, Any], str]:
    """Detectron2's settings of the network, and its name in the zoo, "" if unknown."""
    beside = None if name else _config_beside(Path(source))
    if beside is not None:
        logger.info("%s: its config is %s in the same folder", source, beside.name)
        return read_yaml(beside), ""
    if not name:
        settings = identified_settings(state, source)
        for key in ("pixel_mean", "pixel_std"):
            if isinstance(values.get(key), Tensor):
                numbers = values[key].double().flatten().tolist()
                settings[f"MODEL.{key.upper()}"] = [round(number, 4) for number in numbers]
        logger.info(
            "%s: read as a Detectron2 detector without a name; what no tensor shows is as in the "
            "default config (channels BGR, no deviation, strides in 1×1 convolutions, 800 pixels); "
            "give its name or its config.yaml if it was trained differently",
            source,
        )
        return settings, ""
    if name.endswith((".yaml", ".yml")) and Path(name).is_file():
        return read_yaml(Path(name)), ""
    name = check_name(name)
    if name in zoo.BACKBONES:
        raise UserError(f"{source} holds a detector, and {name} is a backbone; leave the name out")
    return zoo.settings(name), name


def _config_beside(path: Path) -> Path | None:
    """Detectron2's config of the file `path`: of the same name, as resdet's convert writes it, or
    config.yaml, as Detectron2 leaves it in its output folder; None for other YAML files."""
    for config in (path.with_suffix(".yaml"), path.with_name("config.yaml")):
        if config.is_file() and any(key.startswith("MODEL.") for key in read_yaml(config)):
            return config
    return None


def identified_settings(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    """The settings, by dotted keys, that the names and shapes of a detector show.

    Raises UserError if a tensor is missing or damaged.
    """
    has_fpn = any(key.startswith("backbone.bottom_up.") for key in state)
    is_c4 = any(key.startswith("roi_heads.res5.") for key in state)
    if not has_fpn and not is_c4:
        settings: dict[str, Any] = dict(zoo.DC5)
    else:
        settings = dict(zoo.FPN) if has_fpn else {}
    settings |= zoo.MULTI_SCALE
    body = "backbone.bottom_up." if has_fpn else "backbone."
    settings["MODEL.RESNETS.DEPTH"] = _depth(state, body, source)
    norm = _norm_of(state, f"{body}stem.conv1.norm")
    settings["MODEL.RESNETS.NORM"] = "FrozenBN" if norm == "SyncBN" else norm
    rpn_convs = count_names(state, r"rpn_head\.conv\.conv\d\.weight")
    settings["MODEL.RPN.CONV_DIMS"] = [-1] * max(1, rpn_convs)
    num_classes = len(find_matrix(state, "cls_score.weight", source)) - 1
    settings["MODEL.ROI_HEADS.NUM_CLASSES"] = num_classes
    num_stages = count_names(state, r"roi_heads\.box_predictor\.\d\.cls_score\.weight")
    if num_stages > 1:
        settings |= zoo.CASCADE
    if has_fpn:
        lateral = find_matrix(state, "backbone.fpn_lateral5.weight", source)
        settings["MODEL.FPN.OUT_CHANNELS"] = len(lateral)
        settings["MODEL.FPN.NORM"] = _norm_of(state, "backbone.fpn_lateral5.norm")
        if settings["MODEL.FPN.NORM"] == "SyncBN":
            # the pyramid's statistics are only trained together with the backbone's
            settings |= {"MODEL.RESNETS.NORM": "SyncBN", "MODEL.BACKBONE.FREEZE_AT": 0}
    if not is_c4:
        settings |= _box_head_settings(state, num_stages, source)
    deltas = len(find_matrix(state, "bbox_pred.weight", source))
    settings["MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG"] = deltas == 4
    return settings | _mask_head_settings(state, source)


def _box_head_settings(state: Mapping[str, Tensor], num_stages: int, source: str) -> dict[str, Any]:
    head = "roi_heads.box_head." + ("0." if num_stages > 1 else "")
    num_convs = count_names(state, re.escape(head) + r"conv\d\.weight")
    settings: dict[str, Any] = {
        "MODEL.ROI_BOX_HEAD.NUM_CONV": num_convs,
        "MODEL.ROI_BOX_HEAD.NUM_FC": count_names(state, re.escape(head) + r"fc\d\.weight"),
        "MODEL.ROI_BOX_HEAD.FC_DIM": len(find_matrix(state, head + "fc1.weight", source)),
        "MODEL.ROI_BOX_HEAD.NORM": _norm_of(state, f"{head}conv1.norm"),
    }
    if num_convs:
        settings["MODEL.ROI_BOX_HEAD.CONV_DIM"] = len(
            find_matrix(state, head + "conv1.weight", source)
        )
    return settings


def _mask_head_settings(state: Mapping[str, Tensor], source: str) -> dict[str, Any]:
    head = "roi_heads.mask_head."
    if not any(key.startswith(head) for key in state):
        return {"MODEL.MASK_ON": False}
    predictor = find_matrix(state, head + "predictor.weight", source)
    return {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": count_names(state, re.escape(head) + r"mask_fcn\d\.weight"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": predictor.shape[1],
        "MODEL.ROI_MASK_HEAD.NORM": _norm_of(state, f"{head}mask_fcn1.norm"),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": len(predictor) == 1
        and len(find_matrix(state, "cls_score.weight", source)) > 2,
    }


def _depth(state: Mapping[str, Tensor], body: str, source: str) -> int:
    blocks = count_names(state, re.escape(body) + r"res4\.\d+\.conv1\.weight")
    is_bottleneck = f"{body}res4.0.conv3.weight" in state
    depth = BLOCKS_OF_RES4.get(blocks)
    if depth == 50 and not is_bottleneck:
        depth = 34
    if depth is None or is_bottleneck != (depth >= 50):
        raise UserError(f"{source}: ResNet-18, 34, 50, 101 or 152 have no res4 of {blocks} blocks")
    return depth


def _norm_of(state: Mapping[str, Tensor], name: str) -> str:
    if f"{name}.running_mean" in state:
        return "SyncBN"
    return "GN" if f"{name}.weight" in state else ""


def _classes(count: int, name: str) -> tuple[list[str], list[int]]:
    """Names and original ids: those of the zoo's data sets, COCO's for 80 classes."""
    if name.startswith("Cityscapes"):
        categories = CITYSCAPES_CATEGORIES
    elif name.startswith("PascalVOC"):
        categories = VOC_CATEGORIES
    elif count == len(COCO_CATEGORIES):
        categories = COCO_CATEGORIES
    else:
        categories = list(enumerate(numbered_classes(count), start=1))
    return [label for _, label in categories], [number for number, _ in categories]


def _backbone(state: Mapping[str, Tensor], is_gn: bool, source: str) -> LoadedWeights:
    """An ImageNet network without its classifier, for `model.backbone.weights`.

    MSRA's networks have batch norms and strides in 1×1 convolutions; FAIR's, with group norms, do
    not.
    """
    kept = {
        our_name(key): value
        for key, value in state.items()
        if not key.startswith(BACKBONE_REST) and not CONSTANTS.search(key)
    }
    if not any(key.startswith("layer1.0.") for key in kept):
        raise UserError(f"{source} holds neither a detector nor a ResNet of Detectron2")
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
    """Batch norms that Caffe2 stored only as scale and shift get mean 0 and variance 1."""
    complete = dict(state)
    for key in state:
        name = key.removesuffix("weight")
        if re.search(r"(bn\d|downsample\.1)\.weight$", key) and f"{name}running_mean" not in state:
            complete[f"{name}running_mean"] = torch.zeros_like(state[key])
            complete[f"{name}running_var"] = torch.ones_like(state[key])
    return complete


def exported(weights: LoadedWeights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A detector's tensors under Detectron2's names, and its config as nested sections.

    Raises UserError for other weights than detectors, and for options that Detectron2 lacks.
    """
    config = weights.detection_config()
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
