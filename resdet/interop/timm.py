"""timm's plain ResNets: the published ones by name, `timm:resnet50.a1_in1k`, and files of them.

Their tensors have torchvision's names.
"""

import logging
import re
from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any, Literal

import yaml

from resdet.errors import UserError, did_you_mean
from resdet.files.cache import cache_folder
from resdet.interop import download
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision.classifiers import Preparation, as_classifier, network_of

log = logging.getLogger("resdet")

PREFIX = "timm:"
ADDRESS = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"

# Other networks with similar names: another stem, shortcut, norm, width or block.
VARIANT = re.compile(r"resnet\d+[a-z_]\w*|\w+resnet\w*|resne(xt|tv2|taa|tblur|trs)\w*")

TestInput = tuple[int, float, Literal["bilinear", "bicubic"]]
"""Side of the test image in pixels, as a share of the resized image's short side, filter."""
TAGS: dict[str, dict[str, TestInput]] = yaml.safe_load(
    Path(__file__).with_name("timm.yaml").read_text(encoding="utf-8")
)
"""By network and tag, how timm tests it; a network's first tag is timm's default."""
HALVES = {"resnet34.ra4_e3600_r224_in1k"}
"""Weights trained with a pixel mean and deviation of .5 instead of ImageNet's."""


def check_name(name: str) -> tuple[str, str]:
    """Network and tag of `NAME.TAG`; UserError with similar names if resdet lacks it."""
    name = name.removeprefix(PREFIX)
    network, _, tag = name.partition(".")
    if network not in TAGS:
        if VARIANT.fullmatch(network):
            raise UserError(
                f"{PREFIX}{name}: resdet has no {network}; of timm's networks it has the plain "
                f"ResNets: {', '.join(TAGS)}"
            )
        hint = did_you_mean(network, TAGS, f"it has {', '.join(TAGS)}", most=2)
        raise UserError(f"{PREFIX}{name}: resdet has no network for timm's {network!r}; {hint}")
    tags = TAGS[network]
    if tag not in tags:
        given = f"has no weights {tag!r}" if tag else "needs the name of its weights"
        hint = did_you_mean(tag, tags, f"choose from {', '.join(tags)}", most=2, cutoff=0.5)
        raise UserError(
            f"{PREFIX}{name}: {network} {given}, {hint} as in {PREFIX}{network}.a1_in1k"
        )
    return network, tag


def fetch(name: str) -> Path:
    """The local file of `NAME.TAG`, downloaded once into the cache.

    Raises UserError as `check_name` and `download.fetch`.
    """
    name = ".".join(check_name(name))
    path = cache_folder() / "timm" / f"{name}.safetensors"
    return download.fetch(ADDRESS.format(name), path, sha256=None, spec=PREFIX + name)


def recognises(state: Mapping[str, Any]) -> bool:
    """Never: the names are torchvision's, and no tensor shows how images are prepared."""
    return False


def imported(values: dict[str, Any], name: str | None, source: str) -> LoadedWeights:
    """The classifier in `values`, tensors under timm's names.

    `name` is NAME.TAG, or NAME, whose images are then prepared as for timm's default tag, or None
    for the network that the tensors identify. Raises UserError for tensors of another network.
    """
    if name is None:
        network = network_of(values)
        if network not in TAGS:
            raise UserError(
                f"{source} is not one of timm's plain ResNets, {', '.join(TAGS)}; give "
                f"source={PREFIX}NAME.TAG to see what differs"
            )
        assert network is not None, "None is not a key"
        name = network
    is_guessed = "." not in name
    if is_guessed and name in TAGS:
        name = f"{name}.{next(iter(TAGS[name]))}"
        log.info("%s: images are prepared as for %s%s; give its tag", source, PREFIX, name)
    network, tag = check_name(name)
    prepared = preparation(network, tag)
    return as_classifier(values, network, prepared, source, is_guessed=is_guessed)


def preparation(network: str, tag: str) -> Preparation:
    """How timm tests a network and tag of `TAGS`."""
    size, share, interpolation = TAGS[network][tag]
    resize = floor(size / share)
    if f"{network}.{tag}" in HALVES:
        return Preparation(resize, size, interpolation, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Preparation(resize, size, interpolation)
