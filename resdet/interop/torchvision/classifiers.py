"""torchvision's classifiers, read and written: published ones, such as
`torchvision:resnet101.IMAGENET1K_V1`, and files with its tensor names."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from resdet.config.loading import config_from_dict, config_to_dict
from resdet.config.model import BackboneConfig
from resdet.errors import UserError, did_you_mean, first_few
from resdet.interop import download
from resdet.interop.loaded import (
    BACKBONE_PREFIX,
    HEAD_PREFIX,
    LoadedWeights,
    numbered_classes,
    value_at,
)

PREFIX = "torchvision:"
COUNTER = "num_batches_tracked"
# torch.hub's rule: resnet101-63fe2227.pth contains the start of its SHA-256.
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
"""torchvision's names, each with the same network: a backbone of the registry and its options."""

# By the start of resdet's name: torchvision's prefixes of the head's tensors and ours, then the
# prefixes of the backbone's tensors, which keep their names.
NAMES: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "resnet": ({"fc.": "fc."}, ("conv1.", "bn1.", "layer")),
    "vgg": ({"classifier.": "classifier."}, ("features.",)),
    "googlenet": (
        {"fc.": "main.fc.", "aux1.": "aux1.", "aux2.": "aux2."},
        ("conv1.", "conv2.", "conv3.", "inception"),
    ),
}
WNIDS = Path(__file__).with_name("imagenet_wnids.txt")

# ResNets: whether blocks are bottlenecks, and their number in each stage.
DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
# VGGs by their number of convolutions.
CONVOLUTIONS = {13: "vgg16", 16: "vgg19"}
SHAPES = {"conv1.weight": (64, 3, 7, 7), "layer1.0.conv2.weight": (64, 64, 3, 3)}
"""Shapes that distinguish ResNets from ResNeXts and wide ones, whose tensor names are the same."""
RESNET_NAME = re.compile(r"(conv1|bn1|layer\d\.\d+\.((conv|bn)\d|downsample\.[01]))\.\w+|fc\..+")
"""Names of a ResNet's tensors; timm's variants have others, such as conv1.0.weight in resnet50d."""


@dataclass(frozen=True)
class Preparation:
    """How a published classifier prepares a test image."""

    resize: int = 256
    """Short side in pixels."""
    size: int = 224
    """Side of the centre crop."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Of red, green and blue, in 0..1."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


def backbone_for(name: str) -> tuple[str, dict[str, Any]]:
    """The backbone and the options for torchvision's `name`, or for a whole spec.

    Raises UserError with similar names for a classifier that resdet has no network for.
    """
    name = name.removeprefix(PREFIX).partition(".")[0]
    if name not in CLASSIFIERS:
        hint = did_you_mean(name, CLASSIFIERS, f"it has {', '.join(CLASSIFIERS)}")
        raise UserError(f"resdet has no network for torchvision's {name!r}; {hint}")
    backbone, options = CLASSIFIERS[name]
    return backbone, dict(options)


def classifier_state(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of torchvision's classifier `name` under the names of a `Classifier`,
    `backbone.…` and `head.…`, without the pixel mean and deviation.

    `name` is torchvision's or the registry's. Raises UserError for a classifier that resdet has no
    network for, and for tensors of another network, which it lists.
    """
    family = name if name in dict(CLASSIFIERS.values()) else backbone_for(name)[0]
    head, rest = prefixes_of(family)
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
        raise UserError(
            f"these are not the weights of torchvision's {name}, which has no {first_few(unknown)}"
        )
    return renamed


def imagenet_wnids() -> list[str]:
    """The 1,000 classes of ILSVRC 2012 as WordNet ids, in the order of torchvision's logits."""
    return WNIDS.read_text(encoding="ascii").split()


def preparation(name: str) -> Preparation:
    """How torchvision tests `NAME.WEIGHTS`; NAME is as the first published weights."""
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
    """torchvision's name of the classifier with these tensors; None if resdet has none."""
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
        counts = Counter(
            match[1] for key in state if (match := re.match(r"layer(\d)\.\d+\.conv1\.", key))
        )
        blocks = tuple(counts[stage] for stage in "1234")
        name = DEPTHS.get(("layer1.0.conv3.weight" in state, blocks), "")
    if not name:
        return None
    if name.startswith("resnet"):
        return name if all(map(RESNET_NAME.fullmatch, state)) else None
    head, rest = prefixes_of(name)
    known = (*head, *rest)
    return name if all(key.startswith(known) for key in state) else None


def recognises(state: Mapping[str, Any]) -> bool:
    """Whether these are all the tensors of one of `CLASSIFIERS`, its last layer included.

    timm's plain ResNets have the same names.
    """
    name = network_of(state)
    return name is not None and _last_layer(name) in state


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The classifier in `values`, tensors under torchvision's names.

    `name` is NAME.WEIGHTS, or NAME, whose images are then prepared as for the first published
    weights, or None for the network that the tensors identify. Without its last layer it is a
    backbone. Raises UserError for tensors of another network.
    """
    network = name.partition(".")[0] if name is not None else network_of(values)
    if network is None:
        raise UserError(
            f"{source} is not one of torchvision's classifiers that resdet supports: "
            f"{', '.join(CLASSIFIERS)}"
        )
    backbone_for(network)
    prepared = preparation(name or network)
    return as_classifier(values, network, prepared, source, is_guessed=name is None)


def as_classifier(
    values: Mapping[str, Tensor],
    network: str,
    prepared: Preparation,
    source: str,
    *,
    is_guessed: bool = False,
) -> LoadedWeights:
    """The tensors of torchvision's `network` as one of resdet's classifiers.

    A thousand classes are ImageNet's, others are numbered. Raises UserError as `classifier_state`.
    """
    try:
        state = classifier_state(network, dict(values))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    backbone, given = CLASSIFIERS[network]
    own_keys = {key: given[key] for key in given if key in BackboneConfig.model_fields}
    options = {key: given[key] for key in given if key not in own_keys}
    config: dict[str, Any] = {
        "task": "classification",
        "model": {
            "backbone": {"name": backbone, **own_keys, "options": options},
            "pixel_mean": [round(255 * value, 6) for value in prepared.mean],
            "pixel_std": [round(255 * value, 6) for value in prepared.std],
        },
        "data": {
            "test_resize": prepared.resize,
            "test_size": prepared.size,
            "interpolation": prepared.interpolation,
        },
        # not trained here; the schema requires a length
        "train": {"epochs": 1},
    }
    complete = config_to_dict(config_from_dict(config, source))
    last = values.get(_last_layer(network))
    if last is None:
        bare = {key.removeprefix("backbone."): value for key, value in state.items()}
        return LoadedWeights(bare, "backbone", complete, source, is_guessed=is_guessed)
    if last.ndim != 2 or not len(last):
        raise UserError(
            f"{source}: {_last_layer(network)} has shape {tuple(last.shape)}, not that of the last "
            "layer of a classifier; the file is damaged"
        )
    for key in ("pixel_mean", "pixel_std"):
        state[key] = torch.tensor(complete["model"][key])[:, None, None]
    names = imagenet_wnids()
    if len(last) != len(names):
        names = numbered_classes(len(last))
    return LoadedWeights(state, "classifier", complete, source, names, is_guessed=is_guessed)


def prefixes_of(network: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The entry of `NAMES` for a network, by torchvision's name or the registry's."""
    return next(names for start, names in NAMES.items() if network.startswith(start))


def _last_layer(network: str) -> str:
    """torchvision's name of the tensor with one row per class."""
    return "classifier.6.weight" if network.startswith("vgg") else "fc.weight"


def weights_url(name: str) -> str:
    """The address of `NAME.WEIGHTS`; raises UserError as `_entry` does."""
    return str(_entry(name).url)


def _entry(name: str) -> Any:
    """torchvision's record of `NAME.WEIGHTS`, or of a whole spec.

    Raises UserError with similar names for an unknown model or set of weights, and for a spec
    without one of the two.
    """
    from torchvision import models

    spec = PREFIX + name.removeprefix(PREFIX)
    name, _, weights = name.removeprefix(PREFIX).partition(".")
    known = models.list_models(module=models)
    if name not in known:
        hint = did_you_mean(name, known, "for example resnet50")
        raise UserError(f"{spec}: torchvision has no classifier {name!r}; {hint}")
    entries: type[Enum] = models.get_model_weights(name)
    choices = [entry for entry in entries.__members__ if entry != "DEFAULT"]
    if weights not in entries.__members__:
        given = f"has no weights {weights!r}" if weights else "needs the name of its weights"
        hint = did_you_mean(weights.upper(), choices, f"choose from {', '.join(choices)}", most=1)
        raise UserError(f"{spec}: {name} {given}, {hint} as in {PREFIX}{name}.{choices[0]}")
    return entries[weights].value


def check_name(name: str) -> None:
    """UserError with similar names if `NAME.WEIGHTS` is not published, or resdet has no such
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

    Checks the start of the SHA-256 in the file's name. Raises UserError as `download.fetch`.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    match = HASH_IN_NAME.search(path.name)
    return download.fetch(url, path, sha256=match[1] if match else None, spec=spec)


def exported(weights: LoadedWeights) -> dict[str, Tensor]:
    """The tensors of a classifier, or of a backbone alone, under torchvision's names.

    Compared with torchvision's own model: every tensor exists and has its shape, except the last
    layer of a backbone alone. Raises UserError if torchvision has no such network.
    """
    section = value_at(weights.config, "model.backbone") or {}
    name = section.get("name")
    if not isinstance(name, str):
        raise UserError(f"{weights.source} does not identify its network; give --from ORIGIN:NAME")
    known = list(dict.fromkeys(backbone for backbone, _ in CLASSIFIERS.values()))
    if name not in known:
        raise UserError(f"{weights.source}: torchvision has no {name}; it has {', '.join(known)}")
    head, rest = prefixes_of(name)
    prefix = BACKBONE_PREFIX if weights.kind == "classifier" else ""
    state: dict[str, Tensor] = {}
    for key, value in weights.state.items():
        if key.startswith(HEAD_PREFIX) and prefix:
            ours = key.removeprefix(HEAD_PREFIX)
            their = next((t for t, our in head.items() if ours.startswith(our)), None)
            state[ours if their is None else their + ours.removeprefix(head[their])] = value
        elif key.removeprefix(prefix).startswith(rest):
            state[key.removeprefix(prefix)] = value
    if section.get("stride_in_1x1"):
        raise UserError(
            f"{weights.source} has its strides in the first 1×1 of a bottleneck, and torchvision's "
            f"{name} in the 3×3: its numbers would differ"
        )
    problems = _differences(_model(name, state, section), state, has_head=bool(prefix))
    if problems:
        raise UserError(
            f"{weights.source} is not the network that torchvision calls {name}: "
            f"{first_few(problems)}"
        )
    return state


def _model(name: str, state: dict[str, Tensor], section: dict[str, Any]) -> nn.Module:
    """torchvision's model of that name on the meta device."""
    from torchvision import models

    norm = section.get("norm") or (section.get("options") or {}).get("norm")
    has_norm = any(key.endswith("running_mean") for key in state)
    theirs = f"{name}_bn" if name.startswith("vgg") and (norm or has_norm) else name
    last = state.get("fc.weight", state.get("classifier.6.weight"))
    options: dict[str, Any] = {"num_classes": 1000 if last is None else len(last)}
    if name == "googlenet":
        is_full = any(key.startswith("aux1.") for key in state)
        options |= {"aux_logits": is_full, "init_weights": False}
    with torch.device("meta"):
        model: nn.Module = models.get_model(theirs, weights=None, **options)
    return model


def _differences(model: nn.Module, state: dict[str, Tensor], *, has_head: bool) -> list[str]:
    theirs = {key: value for key, value in model.state_dict().items() if not key.endswith(COUNTER)}
    if not has_head:
        theirs = {key: value for key, value in theirs.items() if key in state or not _is_head(key)}
    ours = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    problems = [f"it lacks {key}" for key in theirs if key not in ours]
    problems += [f"it has {key} besides" for key in ours if key not in theirs]
    problems += [
        f"{key} is {tuple(value.shape)} here, {tuple(theirs[key].shape)} there"
        for key, value in ours.items()
        if key in theirs and value.shape != theirs[key].shape
    ]
    return problems


def _is_head(key: str) -> bool:
    return key.startswith(("fc.", "classifier.", "aux1.", "aux2."))
