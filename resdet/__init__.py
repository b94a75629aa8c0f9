"""resdet: detection, segmentation and classification with ResNets. This is the public API."""

import importlib
from typing import TYPE_CHECKING, Any

from resdet.version import __version__

# Imported on first use, so that `import resdet` and every --help stay quick.
_HOMES = {
    "Detections": "resdet.structures",
    "build": "resdet.factory",
    "draw": "resdet.viz.draw",
    "evaluate_coco": "resdet.evaluation.coco",
    "list_backbones": "resdet.backbones",
    "load": "resdet.inference.loading",
    "register_backbone": "resdet.backbones",
    "train": "resdet.engine.start",
}
__all__ = [
    "Detections",
    "__version__",
    "build",
    "draw",
    "evaluate_coco",
    "list_backbones",
    "load",
    "register_backbone",
    "train",
]

if TYPE_CHECKING:
    from resdet.backbones import list_backbones, register_backbone
    from resdet.engine.start import train
    from resdet.evaluation.coco import evaluate_coco
    from resdet.factory import build
    from resdet.inference.loading import load
    from resdet.structures import Detections
    from resdet.viz.draw import draw


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resdet' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
