"""Trained models from disk or by a published name."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from resdet.factory import build_trained, build_trained_classifier, build_trained_localizer
from resdet.factory.imports import import_modules
from resdet.hardware import choose_device
from resdet.interop.weights import read_weights
from resdet.models.classifier import Classifier
from resdet.models.predict import precision_of
from resdet.models.rcnn import RCNN
from resdet.models.region_classifier import AnyLocalizer

log = logging.getLogger("resdet")


def load(
    path: str | Path,
    source: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    *,
    imports: Sequence[str] = (),
) -> RCNN | Classifier | AnyLocalizer:
    """A trained detector, classifier or localizer in evaluation mode, with its config and class
    names.

    `path` is a run folder (best.pt, else last.pt), a checkpoint, a published name such as
    torchvision:resnet50.IMAGENET1K_V2, or a file of another toolkit. For such a file, `source`
    names the toolkit, as ORIGIN or ORIGIN:NAME (detectron2, torchvision, timm), if its tensors do
    not identify it. Averaged (EMA) weights are used if the checkpoint has them. `device` None
    is the GPU if there is one. `imports` are modules of your own that the model needs, such as
    the one with its backbone: a checkpoint never imports code by itself.

    `precision` is auto, fp32, bf16 or fp16, and applies to every `predict` that does not choose
    another; None is train.precision of a run, which is auto by default. auto is bf16 if the
    processor supports it, and fp32 for imported weights.
    Raises UserError for a file that is not one of these, and for a wrong `source`.
    """
    import_modules(imports)
    weights = read_weights(str(path), source)
    model: RCNN | Classifier | AnyLocalizer
    if weights.kind == "classifier":
        model = build_trained_classifier(weights)
    elif weights.kind == "localizer":
        model = build_trained_localizer(weights)
    else:
        model = build_trained(weights)
    model.place(choose_device(None if device is None else str(device), 0))
    model.precision = precision
    chosen = precision_of(model)
    log.info("%s: precision %s (%s)", path, chosen.name, chosen.reason)
    return model
