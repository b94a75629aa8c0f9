"""What the names and shapes of tensors show of a network: which one it is, and where it differs
from the one that resdet has."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resdet.backbones import build_backbone, list_backbones
from resdet.errors import first_few
from resdet.interop.loaded import BACKBONE_PREFIX, LoadedWeights, value_at
from resdet.interop.torchvision.classifiers import CLASSIFIERS, DEPTHS, network_of, prefixes_of

log = logging.getLogger("resdet")

BLOCK = re.compile(r"layer(\d)\.\d+\.conv1\.weight")
STAGE = re.compile(r"layer\d\.")
STEM = "conv1.weight"
RES5_PREFIX = "roi_heads.res5."
BASIC = ("resnet18", "resnet34")
"""ResNets of basic blocks, whose last map has 512 channels."""
OTHER_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (True, (2, 2, 2, 2)): "resnet26",
    (True, (3, 24, 36, 3)): "resnet200",
}
LOSS = re.compile(r"(^|[._])(loss|criterion)")
COUNTER = "num_batches_tracked"
STATISTICS = (COUNTER, "running_mean", "running_var")
"""What only some norms have."""


@dataclass(frozen=True)
class Architecture:
    """A network as its tensors show it."""

    name: str
    """In resdet's registry, or else as torchvision and timm call it."""
    is_known: bool
    """Whether resdet has such a network, though it may differ in some tensors."""
    misfits: tuple[str, ...] = ()
    """Tensors of the backbone that differ from resdet's, with their shapes."""
    head: tuple[str, ...] = ()
    """Tensors outside of the backbone."""
    stem: tuple[int, ...] = ()
    """Shape of the first convolution."""

    @property
    def described(self) -> str:
        """In words, for messages: what a file holds."""
        matrices = [key for key in self.head if key.endswith(".weight")]
        kind = "a classifier, " if len(matrices) == 1 else ""
        if not self.is_known:
            return f"{kind}{self.name}, which resdet does not have"
        if self.misfits:
            return f"{kind}{self.name} with {first_few(self.misfits, 2)}"
        if matrices:
            return f"{kind}{self.name} with a head of its own, {first_few(matrices, 3)}"
        return f"a backbone, {self.name} without a head"

    @property
    def remedy(self) -> str:
        """What to do with weights that no network of resdet can take; "" where one can."""
        if not self.is_known:
            return (
                f"use weights of one that it has, or register {self.name} as a backbone of your "
                "own (docs/extending.md)"
            )
        if not self.misfits:
            return ""
        if len(self.misfits) == 1 and self.stem[2:] == (7, 7):
            if self.stem[1] == 1:
                return (
                    f"for gray images read as RGB, save {STEM}.repeat(1, 3, 1, 1) / 3 in place of "
                    f"{STEM}"
                )
            if self.stem[1] > 3:
                return f"save {STEM}[:, :3] in place of {STEM} if its first channels are RGB"
        return (
            "use other weights, or register the network as a backbone of your own "
            "(docs/extending.md)"
        )


def backbone_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors of a whole network of resdet, with the last stage, which a C4 detector
    keeps in its head."""
    inside = {
        key.removeprefix(BACKBONE_PREFIX): value
        for key, value in state.items()
        if key.startswith(BACKBONE_PREFIX)
    }
    return inside | {
        f"layer4.{key.removeprefix(RES5_PREFIX)}": value
        for key, value in state.items()
        if key.startswith(RES5_PREFIX)
    }


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """The network of a backbone's or torchvision classifier's tensors, or of a whole network of
    resdet; None for other networks than ResNets, VGGs and GoogLeNet."""
    state = backbone_tensors(state) or state
    name = network_of(state)
    if name is not None and not name.startswith("resnet"):
        rest = prefixes_of(name)[1]
        head = tuple(key for key in state if not key.startswith(rest))
        return Architecture(CLASSIFIERS[name][0], is_known=True, head=head)
    name = _resnet_name(state)
    if name is None:
        return None
    head = tuple(key for key in state if not _is_inner(key))
    if name not in list_backbones():
        return Architecture(name, is_known=False, head=head)
    with torch.device("meta"):
        own = build_backbone(name).state_dict()
    inner = {key: value for key, value in state.items() if key not in head}
    misfits = [
        f"{key} {tuple(value.shape)} in place of {tuple(own[key].shape)}"
        for key, value in inner.items()
        if key in own and own[key].shape != value.shape
    ]
    misfits += [key for key in inner if key not in own and not key.endswith(COUNTER)]
    misfits += [f"no {key}" for key in own if key not in inner and not key.endswith(STATISTICS)]
    stem = tuple(state[STEM].shape) if STEM in state else ()
    return Architecture(name, True, tuple(misfits), head, stem)


def with_last_layer(
    state: dict[str, Tensor], beside: Mapping[str, Tensor], source: str
) -> dict[str, Tensor]:
    """`state` with the names of torchvision's last layer where that of a ResNet has others: in
    nn.Sequential after dropout, or `beside` the network in a module of its own.

    Only where it is the one layer after the pooling, so that the numbers are the same.
    """
    inner = {key: value for key, value in state.items() if _is_inner(key)}
    others = {key: value for key, value in state.items() if key not in inner}
    outer = {
        key: value
        for key, value in {**others, **beside}.items()
        if value.ndim and not LOSS.search(key)
    }
    name = network_of(inner)
    matrix = next((key for key in outer if key.endswith(".weight")), None)
    if "fc.weight" in state or matrix is None or name is None or not name.startswith("resnet"):
        return state
    layer, width = matrix.removesuffix("weight"), 512 if name in BASIC else 2048
    if outer[matrix].shape[1:] != (width,) or not outer.keys() <= {matrix, f"{layer}bias"}:
        return state
    log.info("%s: %s is read as fc, the last layer of %s", source, layer.rstrip("."), name)
    weight = outer[matrix]
    bias = outer.get(f"{layer}bias", weight.new_zeros(len(weight)))
    return {**inner, "fc.weight": weight, "fc.bias": bias}


def described(weights: LoadedWeights) -> str:
    """What weights are, after the word "holds" in messages."""
    prefix = f" (under {weights.prefix})" if weights.prefix else ""
    if weights.kind != "backbone" or not weights.state:
        return f"a {weights.kind}{prefix}"
    shown = architecture_of(weights.state)
    if shown is None:
        names = first_few([repr(name) for name in weights.state], 3)
        return f"a network that resdet does not know, with the tensors {names}{prefix}"
    return f"{shown.described}{prefix}"


def remedy(weights: LoadedWeights, otherwise: str) -> str:
    """What to do with weights of a backbone that no network of resdet can take; for others it is
    `otherwise`."""
    shown = architecture_of(weights.state)
    if shown is not None and weights.kind == "backbone" and shown.remedy:
        return shown.remedy
    return otherwise


def mismatch(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], weights: LoadedWeights
) -> str | None:
    """The message where `state`, tensors of `weights`, is of another network than the state dict
    `own`, or has another first layer; None for other differences and for unknown networks."""
    here, there = architecture_of(own), architecture_of(state)
    if here is None or there is None:
        return None
    if there.name != here.name:
        says = f"{weights.source} holds {there.name}, and"
        difference = _difference(own, state)
        if value_at(weights.config, "model.backbone.name") == here.name:
            return (
                f"{says} its source or config is of {here.name}; give the right one ({difference})"
            )
        remedy = f"give weights of {here.name}"
        if there.is_known:
            remedy = f"set model.backbone.name={there.name}, or {remedy}"
        else:
            remedy += f", as resdet does not have {there.name}"
        return f"{says} model.backbone.name is {here.name}; {remedy} ({difference})"
    if here.stem != there.stem and there.remedy:
        return f"{weights.source} holds {there.described}; {there.remedy}"
    return None


def _difference(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    differing = [
        key
        for key in {**own, **state}
        if not key.endswith(STATISTICS)
        and (key not in own or key not in state or own[key].shape != state[key].shape)
    ]
    return f"{len(differing)} tensors differ, such as {', '.join(differing[:2])}"


def _is_inner(key: str) -> bool:
    return key.startswith(("conv1.", "bn1.")) or STAGE.match(key) is not None


def _resnet_name(state: Mapping[str, Tensor]) -> str | None:
    """The name of a ResNet, ResNeXt or wide ResNet; None for other networks."""
    counts = Counter(match[1] for key in state if (match := BLOCK.fullmatch(key)))
    is_bottleneck = "layer1.0.conv3.weight" in state
    middle = state.get("layer1.0.conv2.weight")
    if middle is None or middle.ndim != 4 or "last_bn.weight" in state:
        return None
    if not counts["4"] and len(middle) == 16:
        # three stages of 16, 32 and 64 channels for small images (He et al. 2016, 4.2)
        return f"cifar_resnet{2 + 2 * sum(counts.values())}"
    kind = is_bottleneck, tuple(counts[stage] for stage in "1234")
    name = DEPTHS.get(kind) or OTHER_DEPTHS.get(kind)
    if name is None:
        return None
    layers = name.removeprefix("resnet")
    width, per_group = middle.shape[:2]
    prefix = "se_" if any(".se." in key for key in state) else ""
    if width != per_group and per_group:
        return f"{prefix}resnext{layers}_{width // per_group}x{per_group}d"
    if width != 64:
        return f"wide_{prefix}resnet{layers}_{width // 64}"
    suffix = ""
    if "conv1.0.weight" in state:
        # a stem of three convolutions; d pools in the shortcut as well (He et al. 2019, 4.2)
        shortcut = state.get("layer2.0.downsample.1.weight")
        suffix = "d" if shortcut is not None and shortcut.ndim == 4 else "c"
    return f"{prefix}resnet{layers}{suffix}"
