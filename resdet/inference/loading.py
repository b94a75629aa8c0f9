"""Trained models from disk or by a published name."""

from __future__ import annotations

from pathlib import Path

import torch

from resdet.factory import build_trained, build_trained_classifier
from resdet.hardware import choose_device
from resdet.interop.weights import read_weights
from resdet.models.classifier import Classifier
from resdet.models.rcnn import RCNN


def load(
    path: str | Path, source: str | None = None, device: str | torch.device | None = None
) -> RCNN | Classifier:
    """A trained detector or classifier in evaluation mode, with its config and class names.

    `path` is a run folder (best.pt, else last.pt), a checkpoint, a published name such as
    torchvision:resnet50.IMAGENET1K_V2, or a file of another toolkit. Of that one `source` says
    whose it is, ORIGIN or ORIGIN:NAME (detectron2, torchvision, timm), where its tensors do not
    tell. Averaged (EMA) weights are taken where the checkpoint keeps them. `device` None is the GPU
    where there is one.
    Raises UserError for a file that is no detector or classifier, and for a wrong `source`.
    """
    weights = read_weights(str(path), source)
    is_classifier = weights.kind == "classifier"
    model: RCNN | Classifier
    model = build_trained_classifier(weights) if is_classifier else build_trained(weights)
    model.place(choose_device(None if device is None else str(device), 0))
    return model
