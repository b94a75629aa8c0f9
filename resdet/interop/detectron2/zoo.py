"""Detectron2's model zoo: addresses of its files, and how its configs differ from the defaults."""

from pathlib import Path
from typing import Any

import yaml

ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"

_ZOO = yaml.safe_load(Path(__file__).with_name("zoo.yaml").read_text(encoding="utf-8"))
FILES: dict[str, str] = _ZOO["files"]
"""Detectors by the name of their config: the end of the address."""
BACKBONES: dict[str, str] = _ZOO["backbones"]
"""ImageNet backbones; resdet does not use their classifiers."""
FPN, DC5, CASCADE, MULTI_SCALE = (
    _ZOO["settings"][name] for name in ("fpn", "dc5", "cascade", "multi_scale")
)
# By a part of the config's path: what it sets besides.
PARTS = {
    "_FPN": FPN,
    "_DC5": DC5,
    "cascade": CASCADE,
    "scratch_": _ZOO["settings"]["scratch"],
    "_9x_": _ZOO["settings"]["imagenet_std"],
    "_LSJ": _ZOO["settings"]["lsj"],
    "Cityscapes/": _ZOO["settings"]["cityscapes"],
    "PascalVOC-Detection/": _ZOO["settings"]["voc"],
    "Detectron1-Comparisons/": _ZOO["settings"]["detectron1"],
}
LSJ_SIZE = 1024
"""Side in pixels of the square that holds LSJ's training images."""


def settings(name: str) -> dict[str, Any]:
    """The settings, by dotted keys, of detector `name`, a key of `FILES`."""
    given: dict[str, Any] = {
        **MULTI_SCALE,
        "MODEL.RESNETS.DEPTH": 101 if "_R_101_" in name else 50,
        "MODEL.MASK_ON": "mask_rcnn" in name,
    }
    if name.endswith("_gn"):
        given["MODEL.RESNETS.STRIDE_IN_1X1"] = False
    for part, values in PARTS.items():
        if part in name:
            given |= values
    for end, norm in (("_gn", "GN"), ("_syncbn", "SyncBN")):
        if name.endswith(end):
            given |= _with_norm(norm)
    return given


def _with_norm(norm: str) -> dict[str, Any]:
    """`norm` everywhere, and a box head of four convolutions and one fully connected layer."""
    keys = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
    return {
        **{f"MODEL.{key}.NORM": norm for key in keys},
        "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
        "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    }
