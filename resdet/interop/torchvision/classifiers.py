"""torchvision's classifiers: the published ones by name, `torchvision:resnet101.IMAGENET1K_V1`,
and files with tensors by its names."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch
from torch import Tensor

from resdet.config.loading import config_from_dict, config_to_dict
from resdet.config.model import BackboneConfig
from resdet.errors import UserError
from resdet.interop import download
from resdet.interop.loaded import LoadedWeights

PREFIX = "torchvision:"
# torch.hub's own rule: resnet101-63fe2227.pth carries the start of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")

CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet18": ("resnet18", {}),
    "resnet34": ("resnet34", {}),
    "resnet50": ("resnet50", {}),
    "resnet101": ("resnet101", {}),
    "resnet152": ("resnet152", {}),
    "vgg16": ("vgg16", {}),
    "vgg16_bn": ("vgg16", {"norm": "bn"}),
    "vgg19": ("vgg19", {}),
    "vgg19_bn": ("vgg19", {"norm": "bn"}),
    "googlenet": ("googlenet", {"branch5_kernel": 3, "transform_input": True}),
}
"""torchvision's names, and the backbone of the registry with the options that make it the same."""

# By the start of resdet's name: torchvision's prefixes of the head's tensors and ours, then the
# start of the others, which keep their names in the backbone.
NAMES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "resnet": ({"fc.": "fc."}, ("conv1.", "bn1.", "layer")),
    "vgg": ({"classifier.": "classifier."}, ("features.",)),
    "googlenet": (
        {"fc.": "main.fc.", "aux1.": "aux1.", "aux2.": "aux2."},
        ("conv1.", "conv2.", "conv3.", "inception"),
    ),
}
WNIDS = Path(__file__).with_name("imagenet_wnids.txt")

# Of ResNets: whether blocks are bottlenecks, and the number of them in each stage.
DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
# Of VGGs: the number of convolutions.
CONVOLUTIONS = {13: "vgg16", 16: "vgg19"}
SHAPES = {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv2.weight": (64, 64, 3, 3)}
"""Shapes that set ResNets apart from ResNeXts and wide ones, whose tensors have the same names."""


@dataclass(frozen=True)
class Preparation:
    """How an image becomes the input of a published classifier, in a test."""

    resize: int = 256
    """Short side in pixels."""
    size: int = 224
    """Side of the centre crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of red, green and blue, 0..1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def backbone_for(name: str) -> tuple[str, dict[str, Any]]:
    """The backbone and the options for torchvision's `name`, also given as a whole spec.

    Raises UserError with near names for a classifier that resdet has no network for.
    """
    name = name.removeprefix(PREFIX).partition(".")[0]
    if name not in CLASSIFIERS:
        near = difflib.get_close_matches(name, CLASSIFIERS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(CLASSIFIERS)}"
        raise UserError(f"resdet has no network for torchvision's {name!r}; {hint}")
    backbone, options = CLASSIFIERS[name]
    return backbone, dict(options)


def classifier_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of torchvision's classifier `name` by the names of a `Classifier`: `backbone.…`
    and `head.…`; without the pixel mean and deviation.

    `name` is torchvision's or the registry's. Raises UserError for a classifier that resdet has no
    network for, and one that lists the tensors that are none of its.
    """
    family = name if name in dict(CLASSIFIERS.values()) else backbone_for(name)[0]
    head, rest = _names(family)
    renamed, unknown = {}, []
    for key, value in state.items():
        prefix = next((prefix for prefix in head if key.startswith(prefix)), None)
        if prefix is not None:
            renamed[f"head.{head[prefix]}{key.removeprefix(prefix)}"] = value
        elif key.startswith(rest):
            renamed[f"backbone.{key}"] = value
        else:
            unknown.append(key)
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise UserError(
            f"these are not the weights of torchvision's {name}, which has no "
            f"{', '.join(unknown[:8])}{more}"
        )
    return renamed


def imagenet_wnids() -> list[str]:
    """The 1,000 classes of ILSVRC 2012 as WordNet ids, in the order of torchvision's logits."""
    return WNIDS.read_text(encoding="ascii").split()


def preparation(name: str) -> Preparation:
    """How torchvision tests `NAME.WEIGHTS`; its first weights' way where no weights are named."""
    if "." not in name:
        return Preparation()
    transform = _entry(name).transforms()
    return Preparation(
        transform.resize_size[0],
        transform.crop_size[0],
        transform.interpolation.value,
        tuple(transform.mean),
        tuple(transform.std),
    )


def network_of(state: Mapping[str, Any]) -> str | None:
    """torchvision's name of the classifier that has these tensors; None where resdet has none."""
    if any(tuple(state[key].shape) != SHAPES[key] for key in SHAPES if key in state):
        return None
    if "inception3a.branch1.conv.weight" in state:
        name = "googlenet"
    elif any(key.startswith("features.") for key in state):
        convolutions = sum(
            1 for key, value in state.items() if key.startswith("features.") and value.ndim == 4
        )
        name = CONVOLUTIONS.get(convolutions, "")
        if name and any(key.endswith(".running_mean") for key in state):
            name += "_bn"
    else:
        found = Counter(
            match[1] for key in state if (match := re.match(r"layer(\d)\.\d+\.conv1\.", key))
        )
        blocks = tuple(found[stage] for stage in "1234")
        name = DEPTHS.get(("layer1.0.conv3.weight" in state, blocks), "")
    if not name:
        return None
    head, rest = _names(name)
    known = (*head, *rest)
    return name if all(key.startswith(known) for key in state) else None


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are all the tensors of one of `CLASSIFIERS`, its last layer included.

    Those of timm's plain ResNets have the same names.
    """
    name = network_of(state)
    return name is not None and _last_layer(name) in state


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The classifier in `values`, the tensors by torchvision's names.

    `name` is NAME.WEIGHTS, or NAME alone, whose images are then prepared as for the first
    published weights; None takes the network that the tensors tell. Without its last layer it is a
    backbone. Raises UserError for tensors that are none of the network's.
    """
    if name is not None:
        backbone_for(name)
        if "." in name:
            _entry(name)
        network = name.partition(".")[0]
    else:
        found = network_of(values)
        if found is None:
            raise UserError(
                f"{source} holds none of torchvision's classifiers that resdet has: "
                f"{', '.join(CLASSIFIERS)}"
            )
        network = found
    return as_classifier(
        values, network, preparation(name or network), source, is_guessed=name is None
    )


def as_classifier(
    values: Mapping[str, Tensor],
    network: str,
    prepared: Preparation,
    source: str,
    *,
    is_guessed: bool = False,
) -> LoadedWeights:
    """The tensors of torchvision's `network` as one of our classifiers, ready to build.

    A thousand classes are ImageNet's, others are numbered. UserError as `classifier_state`.
    """
    try:
        state = classifier_state(network, dict(values))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    backbone, given = CLASSIFIERS[network]
    own_keys = {key: given[key] for key in given if key in BackboneConfig.model_fields}
    mean, std = ([255 * value for value in each] for each in (prepared.mean, prepared.std))
    options = {key: given[key] for key in given if key not in own_keys}
    config: dict[str, Any] = {
        "task": "classification",
        "model": {
            "backbone": {"name": backbone, **own_keys, "options": options},
            "pixel_mean": [round(value, 6) for value in mean],
            "pixel_std": [round(value, 6) for value in std],
        },
        "data": {
            "test_resize": prepared.resize,
            "test_size": prepared.size,
            "interpolation": prepared.interpolation,
        },
        # never trained here; the schema asks for a length
        "train": {"epochs": 1},
    }
    complete = config_to_dict(config_from_dict(config, source))
    last = values.get(_last_layer(network))
    if last is None:
        bare = {key.removeprefix("backbone."): value for key, value in state.items()}
        return LoadedWeights(bare, "backbone", complete, source, is_guessed=is_guessed)
    if last.ndim != 2 or not len(last):
        raise UserError(
            f"{source}: {_last_layer(network)} has shape {tuple(last.shape)}, which is no last "
            "layer of a classifier; the file is damaged"
        )
    for key in ("pixel_mean", "pixel_std"):
        state[key] = torch.tensor(complete["model"][key])[:, None, None]
    names = imagenet_wnids()
    if len(last) != len(names):
        names = [f"class {number}" for number in range(1, len(last) + 1)]
    return LoadedWeights(state, "classifier", complete, source, names, is_guessed=is_guessed)


def _names(network: str) -> tuple[dict[str, str], tuple[str, ...]]:
    return next(names for start, names in NAMES.items() if network.startswith(start))


def _last_layer(network: str) -> str:
    """torchvision's name of the tensor with a row for each class."""
    return "classifier.6.weight" if network.startswith("vgg") else "fc.weight"


def weights_url(name: str) -> str:
    """The address of `NAME.WEIGHTS`; raises UserError as `_entry` does."""
    return str(_entry(name).url)


def _entry(name: str) -> Any:
    """torchvision's record of `NAME.WEIGHTS`, also given as a whole spec.

    Raises UserError with near names for an unknown model or an unknown set of weights, and for a
    spec that has not both parts.
    """
    from torchvision import models

    spec = PREFIX + name.removeprefix(PREFIX)
    name, _, weights = name.removeprefix(PREFIX).partition(".")
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "for example resnet50"
        raise UserError(f"{spec}: torchvision has no classifier {name!r}; {hint}")
    entries: type[Enum] = models.get_model_weights(name)
    choices = [entry for entry in entries.__members__ if entry != "DEFAULT"]
    if weights not in entries.__members__:
        near = difflib.get_close_matches(weights.upper(), choices, n=1)
        given = f"has no weights {weights!r}" if weights else "needs the name of its weights"
        hint = f"did you mean {near[0]}?" if near else f"choose of {', '.join(choices)}"
        raise UserError(f"{spec}: {name} {given}, {hint} as in {PREFIX}{name}.{choices[0]}")
    return entries[weights].value


def check_name(name: str) -> None:
    """UserError with near names where `NAME.WEIGHTS` is not published, or resdet has no such
    network; downloads nothing."""
    _entry(name)
    backbone_for(name)


def fetch(name: str) -> Path:
    """The local file of `NAME.WEIGHTS`, downloaded once into torch.hub's folder.

    Raises UserError as `check_name` and `fetch_url`.
    """
    check_name(name)
    return fetch_url(weights_url(name), PREFIX + name.removeprefix(PREFIX))


def fetch_url(url: str, spec: str) -> Path:
    """The local file of one of torchvision's addresses, downloaded once into torch.hub's folder.

    The start of the SHA-256 in the file's name is checked. Raises UserError as `download.fetch`.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    match = HASH_IN_NAME.search(path.name)
    return download.fetch(url, path, sha256=match[1] if match else None, spec=spec)
