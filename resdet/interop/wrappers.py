"""One network's tensors out of a file's: without the prefixes that wrappers put before the names,
and without what a trainer keeps beside the network, such as a second copy of it."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from resdet.errors import UserError, first_few

log = logging.getLogger("resdet")

AVERAGED = re.compile(r"(^|_)ema(_|$)|averaged?(_|$)|shadow")
"""Keys of averaged weights: model_ema (torchvision), state_dict_ema (timm), and others."""
COMPILED = "_orig_mod."
"""What torch.compile puts before the names inside of a module."""
PARALLEL = "module."
"""What DistributedDataParallel and DataParallel put before all names."""
BACKBONE = "backbone"
STAGES = {"features", "backbone"} | {f"layer{n}" for n in range(1, 5)} | {"res2", "res3", "res4"}
PARTS = STAGES | {"stem", "conv1", "res5"}
"""Parts of networks that are known."""
WHOLE = {"rpn", "roi_heads", "proposal_generator"}
"""Parts of detectors, whose part `backbone` is no wrapper."""
PIXELS = "pixel_mean"
"""As is that of resdet's classifiers, which have this tensor."""
COPY = re.compile(r"(^|_)(k|key|momentum|target)(_|$)")
"""Names of the moving average that self-supervised training compares the network with: encoder_k
(MoCo), momentum_encoder (MoCo v3), target_network (BYOL), backbone_momentum. Their authors transfer
the network itself."""
TEACHERS = ("student", "teacher")
PROTOTYPES = re.compile(r"(^|\.)last_layer\.")
"""The layer by which a student and its average, the teacher, are recognised as those of DINO, whose
authors transfer the teacher (Caron et al. 2021). Elsewhere they may be any two networks."""
SEQUENCE = re.compile(r"(.*?)4\.0\.conv1\.weight")
CHILDREN = {
    **{"0": "conv1", "1": "bn1", "9": "fc"},
    **{str(stage + 3): f"layer{stage}" for stage in range(1, 5)},
}
"""Of torchvision's ResNets, by position in nn.Sequential(*resnet.children())."""


@dataclass(frozen=True)
class Unwrapped:
    """The tensors of one network."""

    state: dict[str, Tensor]
    prefix: str = ""
    """What was before all their names."""
    beside: dict[str, Tensor] = field(default_factory=dict)
    """The file's other tensors, by their whole names."""


def unwrap(state: Mapping[str, Tensor], source: object) -> Unwrapped:
    """The network in `state`, which logs what is left out.

    Raises UserError for several networks, unless it is known which of them users want.
    """
    state = {key.replace(COMPILED, ""): value for key, value in state.items()}
    removed = ""
    while state and all(key.startswith(PARALLEL) for key in state):
        state = {key.removeprefix(PARALLEL): value for key, value in state.items()}
    state = _named_children(state)
    known = PARTS | WHOLE if is_whole(state) else PARTS - {BACKBONE}
    found = _prefixes(state, known)
    if not found:  # a backbone that is not known
        found = [f"{prefix}{BACKBONE}." for prefix in _prefixes(state, {BACKBONE})]
    if not found or "" in found:
        return Unwrapped(state, removed)
    removed = chosen(found, state, source)
    short = _inside(state, removed)
    beside = {key: value for key, value in state.items() if not key.startswith(removed)}
    if beside:
        log.info(
            "%s: the %d tensors under %s are taken; left out, %d: %s",
            *(source, len(short), removed, len(beside), first_few(list(beside), 3)),
        )
    originals = [name for name in found if name != removed]
    if _matches(AVERAGED, removed) and len(originals) == 1:
        # averages often lack what is not trained
        complete = _inside(state, originals[0])
        short = {**complete, **short} if short.keys() <= complete.keys() else short
    return Unwrapped(short, removed, beside)


def chosen(names: list[str], tensors: Iterable[str], source: object, shown: str = "{}") -> str:
    """Of networks that a file holds, by prefix or key, the one that users want: averaged weights,
    or what is not just a copy. UserError, with the names as `shown`, where this is not known."""
    left = names
    if len(left) > 1:
        left = [name for name in names if _matches(AVERAGED, name)] or names
    if len(left) > 1:
        left = [name for name in left if not _matches(COPY, name)]
    if len(left) > 1 and all(any(part in name for part in TEACHERS) for name in left):
        is_dino = any(map(PROTOTYPES.search, tensors))
        left = [name for name in left if TEACHERS[1] in name] if is_dino else left
    if len(left) == 1:
        return left[0]
    raise UserError(
        f"{source} holds several networks, {first_few([shown.format(name) for name in names])}; "
        "save the state dict of one of them in a file of its own"
    )


def _inside(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def is_whole(state: Iterable[str]) -> bool:
    """Whether these are the names of a whole detector, or of one of resdet's classifiers."""
    return any(not WHOLE.isdisjoint(parts) or PIXELS in parts for parts in map(_split, state))


def has_known_parts(state: Iterable[str]) -> bool:
    """Whether any tensor is named as those of a network that resdet knows; Caffe2's names have
    underscores."""
    known = PARTS | WHOLE
    return any(
        not known.isdisjoint(_split(key)[:-1]) or key.partition("_")[0] in known for key in state
    )


def _split(key: str) -> list[str]:
    return key.split(".")


def _matches(pattern: re.Pattern[str], name: str) -> bool:
    return any(map(pattern.search, _split(name)))


def _prefixes(state: Iterable[str], known: set[str]) -> list[str]:
    """What is before the first known part of names; where some have stages, those alone count."""
    found: Counter[str] = Counter()
    staged = set()
    for parts in map(_split, state):
        place = next((at for at, part in enumerate(parts[:-1]) if part in known), None)
        if place is not None:
            prefix = "".join(f"{part}." for part in parts[:place])
            found[prefix] += 1
            if parts[place] in STAGES | WHOLE:
                staged.add(prefix)
    return [prefix for prefix, _ in found.most_common() if prefix in staged or not staged]


def _named_children(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """With torchvision's names where a ResNet was taken apart into nn.Sequential."""
    starts = [
        match[1]
        for key in state
        if (match := SEQUENCE.fullmatch(key))
        and f"{match[1]}0.weight" in state
        and f"{match[1]}7.0.conv1.weight" in state
    ]
    renamed = {}
    for key, value in state.items():
        start = next((start for start in starts if key.startswith(start)), None)
        if start is not None:
            number, _, rest = key.removeprefix(start).partition(".")
            # in a part of its own it is often called as that of VGGs
            key = f"{start.removesuffix('features.')}{CHILDREN.get(number, number)}.{rest}"
        renamed[key] = value
    return renamed
