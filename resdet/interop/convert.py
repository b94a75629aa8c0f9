"""Weights from one layout to another: resdet's, torchvision's and Detectron2's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision.export import exported_classifier


def to_resdet(weights: LoadedWeights) -> dict[str, Any]:
    """A checkpoint at step 0 that `resdet.load` reads; for a backbone alone, one that
    `model.backbone.weights` accepts.

    Raises UserError for a detector or classifier without a config or class names.
    """
    if weights.kind != "backbone" and (weights.config is None or not weights.class_names):
        raise UserError(
            f"{weights.source} holds a {weights.kind} without a config and class names, which a "
            "checkpoint carries; give its --from ORIGIN:NAME"
        )
    values = checkpoint.contents(
        weights.kind,
        weights.config,
        weights.class_names,
        weights.category_ids,
        step=0,
        model={key: _plain(value) for key, value in weights.state.items()},
    )
    return values | {"is_imported": weights.is_imported}


def to_torchvision(weights: LoadedWeights) -> dict[str, Tensor]:
    """The state dict of torchvision's model of the same network.

    Raises UserError for a network that torchvision does not have.
    """
    if weights.kind == "detector":
        from resdet.interop.torchvision import detectors

        state = detectors.exported(weights)
    else:
        state = exported_classifier(weights)
    return {key: _plain(value) for key, value in state.items()}


def to_detectron2(weights: LoadedWeights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Detectron2's state dict and its config as nested dicts.

    Raises UserError for a network or an option that Detectron2 does not have.
    """
    if weights.kind != "detector":
        raise UserError(
            f"{weights.source} holds a {weights.kind}, and Detectron2 only has detectors; use "
            "--to torchvision or --to resdet"
        )
    from resdet.interop.detectron2.weights import exported

    state, config = exported(weights)
    return {key: _plain(value) for key, value in state.items()}, config


def _plain(value: Tensor) -> Tensor:
    """The tensor in memory of its own, in row-major order and a type that numpy supports."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.detach().cpu().contiguous().clone()
