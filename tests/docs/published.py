"""Random weights in place of downloads: the network of the name, in its publisher's file format."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from resdet.backbones import build_backbone
from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict
from resdet.factory import build_model
from resdet.interop.coco_classes import COCO_CATEGORIES
from resdet.interop.detectron2 import weights as detectron2
from resdet.interop.detectron2 import zoo
from resdet.interop.detectron2.config import from_detectron2
from resdet.interop.loaded import LoadedWeights

DAMPED = ("bn3.weight", "conv3.norm.weight", "branch2c_bn_s")
"""Scales of the last norm of a bottleneck: with values of 1, untrained deep networks overflow."""


def fetch(url: str, path: Path, *, sha256: str | None, spec: str) -> Path:
    """In place of `resdet.interop.download.fetch`: writes the file instead of downloading it."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    origin, name = spec.split(":", 1)
    state = {"torchvision": torchvision, "timm": torchvision, "cifar": cifar_resnet}.get(
        origin, detectron2_file
    )(name)
    for key, value in state.items():
        if key.endswith(DAMPED):
            value *= 0.1
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(as_detectron2(state), protocol=2))
    elif path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save(state if origin != "cifar" else {"state_dict": state}, path)
    return path


def torchvision(name: str) -> dict[str, Tensor]:
    """The state of torchvision's model, by which timm's plain ResNets are called too."""
    name = name.partition(".")[0]
    backbone = {"weights_backbone": None} if "rcnn" in name else {}
    return dict(models.get_model(name, weights=None, **backbone).state_dict())


def cifar_resnet(name: str) -> dict[str, Tensor]:
    """Under the names of pytorch_resnet_cifar10."""
    state = build_backbone(f"cifar_{name}", {"pad": "both"}).state_dict()
    state |= {"linear.weight": torch.randn(10, 64) / 8, "linear.bias": torch.zeros(10)}
    return {f"module.{key}": value for key, value in state.items()}


def detectron2_file(name: str) -> dict[str, Tensor]:
    """A detector of the zoo, or the blobs of an ImageNet network."""
    if name in zoo.BACKBONES:
        return caffe2_blobs(name)
    config = config_from_dict(from_detectron2(zoo.settings(name), name), name)
    assert isinstance(config, DetectionConfig)
    ids, names = zip(*COCO_CATEGORIES, strict=True)
    model = build_model(config, class_names=names, category_ids=ids)
    values: dict[str, Any] = config.model_dump(mode="json")
    return detectron2.exported(
        LoadedWeights(model.state_dict(), "detector", values, name, list(names), list(ids))
    )[0]


def caffe2_blobs(name: str) -> dict[str, Tensor]:
    from tests.interop.detectron2.test_weights import caffe2_blobs as blobs

    return {
        key: torch.from_numpy(value)
        for key, value in blobs(norm="bn", depth=int(name.rpartition("-")[2])).items()
    }


def as_detectron2(state: dict[str, Tensor]) -> dict[str, Any]:
    arrays = {key: value.numpy() for key, value in state.items()}
    return {"blobs": arrays} if "conv1_w" in arrays else {"model": arrays}
