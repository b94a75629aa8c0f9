"""A warning for flips of images whose classes have a direction, in training and at test time."""

import logging
import re
from collections.abc import Sequence

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import AnyConfig
from resdet.errors import first_few

logger = logging.getLogger("resdet")

SIDES = ("left", "right")
ENDS = (
    "up",
    "down",
    "top",
    "bottom",
    "upper",
    "lower",
    "upward",
    "downward",
    "upwards",
    "downwards",
)

MIRRORING = ("HorizontalFlip", "D4", "SquareSymmetry", "Transpose", "RandomRotate90")
UPENDING = ("VerticalFlip", "D4", "SquareSymmetry", "Transpose", "RandomRotate90")
"""Transforms of albumentations."""

SHOWN = 4
"""Classes that a warning names."""


Key = tuple[str, str]
"""A key with its value, and the remedy."""


def warn_of_flips(config: AnyConfig, class_names: Sequence[str]) -> None:
    """Logs which keys flip images although the names of classes depend on the direction."""
    _warn(_mirroring(config) + _test_flip(config), class_names, SIDES)
    _warn(_upending(config), class_names, ENDS)


def warn_of_test_flip(config: AnyConfig | None, class_names: Sequence[str]) -> None:
    """As `warn_of_flips`, of a trained model, for the mirror images that it predicts on as well."""
    if config is not None:
        _warn(_test_flip(config), class_names, SIDES)


def _warn(keys: Sequence[Key], class_names: Sequence[str], words: Sequence[str]) -> None:
    names = directed(class_names, words) if keys else []
    for key, remedy in keys if names else ():
        logger.warning(
            f"{key} flips images, and a flipped object keeps its class, but "
            f"{first_few([repr(name) for name in names], SHOWN)} depend on the direction; {remedy}"
        )


def directed(class_names: Sequence[str], words: Sequence[str]) -> list[str]:
    """The names with one of the words, or that differ from another name in the first two words."""
    known, one, two = set(class_names), *words[:2]
    return [
        name
        for name in class_names
        if set(_words(name)) & set(words)
        or (one in name and name.replace(one, two) in known)
        or (two in name and name.replace(two, one) in known)
    ]


def _words(name: str) -> list[str]:
    """The words of turn_left, turn-left and turnLeft."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


def _mirroring(config: AnyConfig) -> list[Key]:
    prob, keys = config.data.augment.flip_prob, []
    if prob:
        keys.append((f"data.augment.flip_prob: {prob:g}", "set data.augment.flip_prob=0"))
    return keys + _named(config, MIRRORING)


def _test_flip(config: AnyConfig) -> list[Key]:
    if isinstance(config, ClassificationConfig) or not config.test.flip:
        return []
    return [("test.flip: true", "set test.flip=false")]


def _upending(config: AnyConfig) -> list[Key]:
    if not isinstance(config, DetectionConfig):
        return []
    prob, keys = config.data.augment.vertical_flip_prob, []
    if prob:
        key = "data.augment.vertical_flip_prob"
        keys.append((f"{key}: {prob:g}", f"set {key}=0"))
    return keys + _named(config, UPENDING)


def _named(config: AnyConfig, transforms: Sequence[str]) -> list[Key]:
    if not isinstance(config, DetectionConfig):
        return []
    given = [str(each.get("name")) for each in config.data.augment.albumentations]
    key = "data.augment.albumentations"
    return [(f"{key}: {name}", "remove the transform") for name in given if name in transforms]
