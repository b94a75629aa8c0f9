"""Converts weights to another layout; describes weights, and what a layout cannot store."""

from typing import Any

import torch
from torch import Tensor

from resdet.config.detection import DetectionConfig
from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.interop import cifar
from resdet.interop.loaded import CONVENTIONS, LoadedWeights, value_at
from resdet.interop.torchvision import classifiers

LAYOUTS = {
    "resdet": "a checkpoint of resdet",
    "torchvision": "a state dict of torchvision",
    "detectron2": "a checkpoint of Detectron2",
    "cifar": "a checkpoint of pytorch_resnet_cifar10",
}
MAX_LISTED = 5


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
    if weights.kind == "localizer":
        raise UserError(
            f"{weights.source} holds a localizer, which torchvision has no network for; use --to "
            "resdet"
        )
    if weights.kind == "detector":
        from resdet.interop.torchvision import detectors

        state = detectors.exported(weights)
    else:
        state = classifiers.exported(weights)
    return {key: _plain(value) for key, value in state.items()}


def to_detectron2(weights: LoadedWeights) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Detectron2's state dict and its config as nested dicts.

    Raises UserError for a network or an option that Detectron2 does not have.
    """
    if weights.kind != "detector":
        raise UserError(
            f"{weights.source} holds a {weights.kind}, and Detectron2 only has detectors; use "
            + ("" if weights.kind == "localizer" else "--to torchvision or ")
            + "--to resdet"
        )
    from resdet.interop.detectron2.weights import exported

    state, config = exported(weights)
    return {key: _plain(value) for key, value in state.items()}, config


def to_cifar(weights: LoadedWeights) -> dict[str, Tensor]:
    """The state dict of pytorch_resnet_cifar10's network, as its data-parallel trainer saves it.

    Raises UserError for another network.
    """
    return {key: _plain(value) for key, value in cifar.exported(weights).items()}


def _plain(value: Tensor) -> Tensor:
    """The tensor in memory of its own, in row-major order and a type that numpy supports."""
    if value.dtype == torch.bfloat16:
        value = value.float()
    return value.detach().cpu().contiguous().clone()


def contents(weights: LoadedWeights, num_tensors: int) -> list[str]:
    """Network, classes, number of tensors and conventions, one line for each."""
    lines = []
    if weights.config is not None:
        lines.append(f"{weights.kind}: {_network(weights)}")
    else:
        lines.append(f"{weights.kind}, of a network that the file does not name")
    if names := weights.class_names:
        more = ", …" if len(names) > MAX_LISTED else ""
        lines.append(f"classes: {len(names)} ({', '.join(names[:MAX_LISTED])}{more})")
    lines.append(f"tensors: {num_tensors}")
    if weights.config is not None:
        keys = CONVENTIONS["detector" if weights.kind == "detector" else "classifier"]
        given = [(key.removeprefix("model."), value_at(weights.config, key)) for key in keys]
        listed = [f"{key} {_text(value)}" for key, value in given if value is not None]
        lines.append(f"conventions: {', '.join(listed)}")
    return lines


def left_behind(weights: LoadedWeights, target: str) -> list[str]:
    """What the layout of `target` can't store, and where its toolkit computes differently."""
    if target == "resdet":
        if weights.kind == "backbone":
            return ["a backbone alone: give it to model.backbone.weights"]
        return []
    if target == "detectron2":
        return ["not in Detectron2's files: the names of the classes and their category ids"]
    if target == "cifar":
        return ["not in the file: the names of the classes, the pixel mean and deviation"]
    is_detector = weights.kind == "detector"
    lines = [
        "not in a state dict: the names of the classes and the config; torchvision's model is made "
        f"with the number of classes{' and one for the background' if is_detector else ''}, and "
        "takes the conventions above as arguments, or from its transforms"
    ]
    if is_detector:
        differing = [
            f"{key} {_text(ours)} here, {_text(only)} there"
            for key, only in CONVENTIONS["torchvision_only"].items()
            if (ours := value_at(weights.config, key)) not in (None, only)
        ]
        if differing:
            text = "torchvision computes differently, so that detections differ slightly"
            lines.append(f"note: {text}: {'; '.join(differing)}")
    return lines


def describe_network(config: DetectionConfig) -> str:
    """A detector in a few words: its backbone, pyramid, stages and masks."""
    model = config.model
    head = model.roi.box_head
    if model.fpn is not None:
        neck = f"FPN of {model.fpn.out_channels} channels"
    else:
        necks = {"res5": "C4", "vgg": "no pyramid, the heads on c4"}
        neck = necks.get(head.type, "no pyramid, the heads on c5")
    hidden = [f"{head.num_convs} convolutions"] * bool(head.num_convs)
    hidden += [f"{head.num_fcs} layers of {head.fc_dim}"] * bool(head.num_fcs)
    stages = len(model.roi.stages)
    return ", ".join(
        (
            f"{model.backbone.name} with norm {model.backbone.norm or 'of its own'}",
            neck,
            f"{stages} box stage{'s' if stages > 1 else ''}{' of ' if hidden else ''}"
            f"{' and '.join(hidden)}",
            *["context of the whole image"] * model.roi.context,
            "boxes only" if model.roi.mask_head is None else "masks",
        )
    )


def _network(weights: LoadedWeights) -> str:
    if weights.kind == "detector":
        return describe_network(weights.detection_config())
    section = value_at(weights.config, "model.backbone") or {}
    given = {k: v for k, v in section.items() if k not in ("name", "weights") and v}
    options = ", ".join(f"{key} {_text(value)}" for key, value in given.items())
    return f"{section.get('name')}" + (f" with {options}" if options else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_text(item) for item in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
