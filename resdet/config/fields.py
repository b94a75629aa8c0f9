"""Types of the config's sections and values, and checks that hold between several."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from resdet.config.find import own_path


def _ascending(values: list[Any]) -> list[Any]:
    if any(low >= high for low, high in pairwise(values)):
        raise ValueError(f"{values} does not ascend; give smaller numbers first, each one once")
    return values


def _range(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise ValueError(f"{values} is not a range; give the smaller number first")
    return values


def _own_path(path: str) -> str:
    return str(own_path(path)) if path.startswith("~") else path


class Section(BaseModel):
    """A part of the config: frozen, unknown keys forbidden, described by the field docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


DataPath = Annotated[str, AfterValidator(_own_path)]
"""A file or folder, with the home folder in place of ~."""
Ascending = AfterValidator(_ascending)
Range = AfterValidator(_range)

MOST = 1_000_000_000
"""Limit of all counts and numbers without another; no product of two overflows."""
Positive = Annotated[int, Field(gt=0, le=MOST)]
NonNegative = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
Pixels = Annotated[int, Field(ge=8, le=16384)]
"""A side of an image that a network sees."""
Images = Annotated[int, Field(gt=0, le=262_144)]
"""Of one update or forward pass, over all processes."""
BatchSize = Images | Literal["auto"]
"""Of one update; auto is measured when a run starts, which stores the number."""
Channels = Annotated[int, Field(gt=0, le=16384)]
Layers = Annotated[int, Field(ge=0, le=100)]
Cells = Annotated[int, Field(gt=0, le=256)]
"""Side of a pooled region."""
Boxes = Annotated[int, Field(gt=0, le=1_000_000)]
"""Of one image."""
Workers = Annotated[int, Field(ge=0, le=1024)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, le=MOST)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=MOST)]
PixelValue = Annotated[float, Field(ge=-65535, le=65535)]
ThreeNumbers = Annotated[list[PixelValue], Field(min_length=3, max_length=3)]
ThreePositives = Annotated[
    list[Annotated[float, Field(ge=1e-3, le=65535)]], Field(min_length=3, max_length=3)
]
ClassMap = dict[str, Annotated[str, Field(min_length=1)] | None]
PixelLimit = Annotated[int, Field(ge=1, le=2**34)]
IMAGENET_MEAN = [123.675, 116.28, 103.53]
IMAGENET_STD = [58.395, 57.12, 57.375]
MaxBroken = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Share of the training images, and of the validation images, that may turn out "
        "to be broken during a run or an evaluation: they are left out, counted and named. With "
        "more of them a run saves and stops. One image of a small set may be broken, unless this "
        "is 0.",
    ),
]
Norm = Literal["none", "bn", "frozen_bn", "sync_bn", "gn"]
BoxLoss = Literal["l1", "smooth_l1", "giou"]


class HeldOutConfig(Section):
    """Parts of data.train that are held out for validation and for a test at the end."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images to validate on; each class keeps this share as far as possible."""
    test: BelowOne = 0.0
    """Share of the images that training never sees, for `evaluate: test`."""
    group_pattern: str | None = None
    """Regular expression on file names: images whose first group, or else match, is the same stay
    in one part, such as ^([^_]+)_ for the patient before the first _."""
    group_key: str | None = None
    """The same by a key of the images in COCO JSON, such as patient_id."""
    evaluate: Literal["val", "test"] = "val"
    """The part that evaluation commands evaluate; training validates on val."""
    seed: Seed = 0
    """Seed of the choice of images; independent of `train.seed`."""

    @model_validator(mode="after")
    def _parts(self) -> HeldOutConfig:
        if self.val + self.test >= 1:
            raise ValueError(
                f"val {self.val:g} and test {self.test:g} leave nothing to train on; lower them"
            )
        if self.evaluate == "test" and not self.test:
            raise ValueError("evaluate: test needs a test part; give its share, such as test: 0.1")
        if self.group_pattern is not None and self.group_key is not None:
            raise ValueError("group_pattern and group_key both make groups; give one of them")
        return self

    @field_validator("group_pattern")
    @classmethod
    def _pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return pattern


def split_replaces_val(values: Any) -> Any:
    """Before the fields of a data section: `split` takes the place of the default of `val`.

    ValueError where both are given.
    """
    if not isinstance(values, dict) or values.get("split") is None:
        return values
    if values.get("val") is not None:
        raise ValueError(
            "data.split: holds out images of data.train, and data.val gives others; set "
            "data.val=null or data.split=null"
        )
    return {**values, "val": None}


def check_anchor_ious(background_iou: float, foreground_iou: float) -> None:
    """ValueError where an anchor would be both."""
    if background_iou > foreground_iou:
        raise ValueError(
            f"background_iou {background_iou} is above foreground_iou {foreground_iou}; an anchor "
            "would be both"
        )


def check_positives(num_samples: int, positive_fraction: float) -> None:
    if int(num_samples * positive_fraction) < 1:
        raise ValueError(
            f"num_samples {num_samples} × positive_fraction {positive_fraction} leaves no place "
            "for a positive; raise one of them"
        )


def check_validations(
    schedule: str, *, stops_early: bool, has_val: bool, every: int | None
) -> None:
    """ValueError for what waits for validations in a run that makes none."""
    if has_val and every != 0:
        return
    for is_so, what in (
        (schedule == "plateau", "optim.schedule: plateau drops the rate by validations"),
        (stops_early, "train.early_stop: ends the run by validations"),
    ):
        if is_so:
            raise ValueError(f"{what}; give data.val, and eval.every above 0 or null")
