"""Small real classifiers with random weights, real images for them, and their checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from resdet.backbones import build_backbone
from resdet.backbones.heads import PoolHead
from resdet.config.classification import ClassificationConfig
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.factory import build_classifier
from resdet.files.images import read_image
from resdet.models.classifier import Classifier

VALUES: dict[str, Any] = {
    "task": "classification",
    "model": {"backbone": {"name": "cifar_resnet20"}},
    "data": {"test_resize": 40, "test_size": 32, "workers": 2},
    "train": {"epochs": 1, "precision": "fp32"},
    "eval": {"batch_size": 4},
}


@dataclass
class FileImages:
    """Image files with labels, as the data sets of resdet have them."""

    paths: list[Path]
    class_names: list[str]
    labels: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.labels = np.arange(len(self.paths)) % len(self.class_names)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].name

    def read(self, index: int) -> np.ndarray:
        return read_image(self.paths[index])


def make_classifier(head: nn.Module | None = None, num_classes: int = 10) -> Classifier:
    """ResNet-18 for crops of 96 pixels, whose maps are 3×3."""
    torch.manual_seed(0)
    return Classifier(
        build_backbone("resnet18", {}),
        head or PoolHead(512, num_classes, window=3),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
        channel_order="rgb",
        channels_last=True,
        test_resize=112,
        test_size=96,
        class_names=[f"class {i}" for i in range(num_classes)],
    ).eval()


def configured(class_names: Sequence[str], seed: int = 0, **data: Any) -> Classifier:
    """CIFAR's ResNet-20 from a config, in which `data` are further keys of that section."""
    values = {**VALUES, "data": {**VALUES["data"], **data}}
    config = config_from_dict(values, "the test")
    assert isinstance(config, ClassificationConfig)
    torch.manual_seed(seed)
    return build_classifier(config, class_names=class_names).eval()


def write_checkpoint(path: Path, model: Classifier) -> Path:
    assert model.config is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "format": 1,
            "kind": "classifier",
            "resdet_version": "0.1.0",
            "config": config_to_dict(model.config),
            "class_names": model.class_names,
            "category_ids": [],
            "step": 3,
            "model": model.state_dict(),
            "ema": None,
        },
        path,
    )
    return path
