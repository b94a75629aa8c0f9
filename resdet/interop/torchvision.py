"""Published torchvision classifiers by name: `torchvision:resnet101.IMAGENET1K_V1`.

Where the files are, which of resdet's networks they fit, and their tensors by resdet's names.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from resdet.errors import UserError

log = logging.getLogger("resdet")

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
    head, rest = next(names for start, names in NAMES.items() if family.startswith(start))
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


def test_sizes(spec: str) -> tuple[int, int]:
    """Short side and centre crop in pixels at which `torchvision:NAME.WEIGHTS` is evaluated."""
    transform = _entry(spec).transforms()
    return transform.resize_size[0], transform.crop_size[0]


def pixel_values(spec: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, 0..255, that `torchvision:NAME.WEIGHTS` expects."""
    transform = _entry(spec).transforms()
    return [255 * value for value in transform.mean], [255 * value for value in transform.std]


def weights_url(spec: str) -> str:
    """The address of `torchvision:NAME.WEIGHTS`; raises UserError as `_entry` does."""
    return str(_entry(spec).url)


def _entry(spec: str) -> Any:
    """torchvision's record of `torchvision:NAME.WEIGHTS`.

    Raises UserError with near names for an unknown model or an unknown set of weights, and for a
    spec that has not both parts.
    """
    from torchvision import models

    name, _, weights = spec.removeprefix(PREFIX).partition(".")
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


def fetch(spec: str) -> Path:
    """The local file of `torchvision:NAME.WEIGHTS`, downloaded once into torch.hub's folder.

    The SHA-256 prefix in the file's name is checked after a download and on the cached file.
    Raises UserError that names the file and its folder when there is no network, or when the file
    is not what its name says.
    """
    url = weights_url(spec)
    filename = Path(urlparse(url).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / filename
    match = HASH_IN_NAME.search(filename)
    prefix = match.group(1) if match else ""
    if path.is_file():
        _check_hash(path, prefix)
        return path
    log.info("downloading %s to %s", url, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix or None, progress=True)
    except RuntimeError as error:
        raise UserError(f"{spec}: the download of {url} is damaged: {error}; try again") from error
    except OSError as error:  # URLError and timeouts are OSErrors
        raise UserError(
            f"{spec}: cannot download {filename} ({error}). Without network, fetch {url} elsewhere "
            f"and put the file into {folder}, or start without weights "
            f"(model.backbone.weights=null)"
        ) from error
    return path


def _check_hash(path: Path, prefix: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(prefix):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 starts with {digest[:8]}, its name "
            f"says {prefix}; delete it and it is downloaded again"
        )
