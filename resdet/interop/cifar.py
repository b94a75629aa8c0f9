"""The CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10: trained ones by name, such as
`cifar:resnet20`, and files with their tensor names, read and written.

Networks of the ResNet paper (He et al. 2016, 4.2), except that the shortcuts have their zeros on
both sides of the old channels, and that the pixel mean and deviation are ImageNet's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError, did_you_mean, first_few
from resdet.files.cache import cache_folder
from resdet.interop import download
from resdet.interop.files import count_names
from resdet.interop.loaded import (
    BACKBONE_PREFIX,
    HEAD_PREFIX,
    LoadedWeights,
    numbered_classes,
    value_at,
)
from resdet.interop.torchvision.classifiers import Preparation

PREFIX = "cifar:"
ADDRESS = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{}"
HASHES = {
    "resnet20": "12fca82f",
    "resnet32": "d509ac18",
    "resnet44": "014dd654",
    "resnet56": "4bfd9763",
    "resnet110": "1d1ed7c2",
    "resnet1202": "f3b1deed",
}
"""Published networks, each with the start of its file's SHA-256, which is part of its name."""
SIDE = 32
STEM = (16, 3, 3, 3)
"""Shape of the first convolution."""
THEIR_HEAD, OUR_HEAD = "linear.", "fc."
STARTS = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.")
"""Prefixes of the other tensors, whose names are ours."""
CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
"""In the order of its labels (Krizhevsky 2009)."""


def check_name(name: str) -> str:
    """The network's name without prefix; UserError with similar names if it is not published."""
    name = name.removeprefix(PREFIX)
    if name not in HASHES:
        hint = did_you_mean(name, HASHES, f"there are {', '.join(HASHES)}", most=2)
        raise UserError(f"{PREFIX}{name}: no such weights are published; {hint}")
    return name


def fetch(name: str) -> Path:
    """The local file of a network, downloaded once into the cache.

    Raises UserError as `check_name` and `download.fetch`.
    """
    name = check_name(name)
    file = f"{name}-{HASHES[name]}.th"
    path = cache_folder() / "cifar" / file
    return download.fetch(ADDRESS.format(file), path, sha256=HASHES[name], spec=PREFIX + name)


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensors of one of these networks, its last layer included."""
    stem = state.get("conv1.weight")
    return (
        isinstance(stem, Tensor)
        and tuple(stem.shape) == STEM
        and f"{THEIR_HEAD}weight" in state
        and all(key.startswith((*STARTS, THEIR_HEAD)) for key in state)
    )


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The classifier in `values`; its depth comes from the tensors, and has to be that of `name`.

    Ten classes are CIFAR-10's, others are numbered. Raises UserError for tensors of another
    network.
    """
    if not recognises(values):
        strange = [key for key in values if not key.startswith((*STARTS, THEIR_HEAD))]
        detail = f"; it has {first_few(strange)}" if strange else ""
        raise UserError(
            f"{source} is not a CIFAR ResNet with the names of pytorch_resnet_cifar10{detail}"
        )
    depth = 2 + 2 * count_names(values, r"layer\d\.\d+\.conv1\.weight")
    if name is not None and check_name(name) != f"resnet{depth}":
        raise UserError(
            f"{source}: it has {depth} layers, so it is not {PREFIX}{name}; leave out the name"
        )
    prepared = Preparation(SIDE, SIDE)
    known = f"resnet{depth}" in HASHES
    config: dict[str, Any] = {
        "task": "classification",
        "model": {
            "backbone": {
                "name": f"cifar_resnet{depth}" if known else "cifar_resnet",
                "pad": "both",
                "options": {} if known else {"depth": depth},
            },
            "pixel_mean": [round(255 * value, 6) for value in prepared.mean],
            "pixel_std": [round(255 * value, 6) for value in prepared.std],
        },
        "data": {"size": SIDE, "test_resize": SIDE, "test_size": SIDE},
        # not trained here; the schema requires a length
        "train": {"epochs": 1},
    }
    complete = config_to_dict(config_from_dict(config, source))
    state: dict[str, Tensor] = {}
    for key, value in values.items():
        if key.startswith(THEIR_HEAD):
            state[HEAD_PREFIX + OUR_HEAD + key.removeprefix(THEIR_HEAD)] = value
        else:
            state[BACKBONE_PREFIX + key] = value
    last = values[f"{THEIR_HEAD}weight"]
    if last.ndim != 2 or not len(last):
        raise UserError(
            f"{source}: {THEIR_HEAD}weight has shape {tuple(last.shape)}, not that of the last "
            "layer of a classifier; the file is damaged"
        )
    for key in ("pixel_mean", "pixel_std"):
        state[key] = torch.tensor(complete["model"][key])[:, None, None]
    names = list(CIFAR10) if len(last) == len(CIFAR10) else numbered_classes(len(last))
    return LoadedWeights(state, "classifier", complete, source, names)


def exported(weights: LoadedWeights) -> dict[str, Tensor]:
    """A classifier's tensors under the names of pytorch_resnet_cifar10.

    Raises UserError for another network, and for one with other shortcuts.
    """
    section = value_at(weights.config, "model.backbone") or {}
    wanted = {
        "a classifier": weights.kind == "classifier",
        "model.backbone.name cifar_resnet…": str(section.get("name")).startswith("cifar_resnet"),
        "model.backbone.shortcut A": section.get("shortcut") in (None, "A"),
        "model.backbone.pad both": section.get("pad") == "both",
        "model.backbone.norm bn": section.get("norm") in (None, "bn", "sync_bn"),
    }
    if absent := [text for text, holds in wanted.items() if not holds]:
        raise UserError(
            f"{weights.source}: pytorch_resnet_cifar10 cannot represent it; it needs "
            f"{'; '.join(absent)}"
        )
    head = HEAD_PREFIX + OUR_HEAD
    state: dict[str, Tensor] = {}
    for key, value in weights.state.items():
        if key.startswith(head):
            state[f"module.{THEIR_HEAD}{key.removeprefix(head)}"] = value
        elif key.startswith(BACKBONE_PREFIX):
            state[f"module.{key.removeprefix(BACKBONE_PREFIX)}"] = value
    return state
