"""Depth, parameters and error of ResNets beside GoogLeNet, FitNet, Highway and VGG.

Ours are counted from the registry; what others published stands here with its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from resdet.analysis.networks import count_with_head


@dataclass(frozen=True)
class Published:
    """A network as its authors, or those who compare with it, describe it."""

    label: str
    data: str
    """cifar10 or imagenet."""
    depth: int
    parameters: float | None
    """As printed; None where only ours is counted."""
    error: float | None
    """Percent: test error on CIFAR-10 (He et al. 2016, table 6), top-5 of 10 crops on ImageNet's
    validation images (table 3); None where not printed."""
    backbone: str | None = None
    """Name in the registry whose parameters are counted; None where there is none."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the backbone."""


PUBLISHED = (
    # parameters: the column of Szegedy et al. 2015, table 1, summed (no auxiliary classifiers)
    Published("GoogLeNet", "imagenet", 22, 6.8e6, 9.15, "googlenet", {"norm": "none"}),
    # parameters: Simonyan & Zisserman 2015, table 2
    Published("VGG-16", "imagenet", 16, 138e6, 9.33, "vgg16"),
    Published("VGG-19", "imagenet", 19, 144e6, None, "vgg19"),
    Published("plain-34", "imagenet", 34, None, 10.02, "plain34"),
    Published("ResNet-18", "imagenet", 18, None, None, "resnet18"),
    Published("ResNet-34 A", "imagenet", 34, None, 7.76, "resnet34", {"shortcut": "A"}),
    Published("ResNet-34 B", "imagenet", 34, None, 7.46, "resnet34"),
    Published("ResNet-34 C", "imagenet", 34, None, 7.40, "resnet34", {"shortcut": "C"}),
    Published("ResNet-50", "imagenet", 50, None, 6.71, "resnet50"),
    Published("ResNet-101", "imagenet", 101, None, 6.05, "resnet101"),
    Published("ResNet-152", "imagenet", 152, None, 5.71, "resnet152"),
    # Romero et al. 2015 and Srivastava et al. 2015, as He et al. 2016 give them in table 6
    Published("FitNet", "cifar10", 19, 2.5e6, 8.39),
    Published("Highway-19", "cifar10", 19, 2.3e6, 7.54, "highway19"),
    Published("Highway-32", "cifar10", 32, 1.25e6, 8.80, "highway32"),
    Published("ResNet-20", "cifar10", 20, 0.27e6, 8.75, "cifar_resnet20"),
    Published("ResNet-32", "cifar10", 32, 0.46e6, 7.51, "cifar_resnet32"),
    Published("ResNet-44", "cifar10", 44, 0.66e6, 7.17, "cifar_resnet44"),
    Published("ResNet-56", "cifar10", 56, 0.85e6, 6.97, "cifar_resnet56"),
    Published("ResNet-110", "cifar10", 110, 1.7e6, 6.43, "cifar_resnet110"),
    Published("ResNet-1202", "cifar10", 1202, 19.4e6, 7.93, "cifar_resnet1202"),
)


@dataclass
class Compared:
    """A published network and what is counted here."""

    published: Published
    depth: int
    """Counted where the registry has the network, else as published."""
    counted: int | None
    """Parameters, without auxiliary classifiers; None where the registry has no such network."""

    @property
    def parameters(self) -> float:
        """Counted, else as published."""
        value = self.published.parameters if self.counted is None else self.counted
        assert value is not None, "a network without a backbone here has published parameters"
        return value


def compare_published(rows: Sequence[Published] = PUBLISHED) -> list[Compared]:
    """Count every network of `rows` that the registry has."""
    return [_compare(row) for row in rows]


def _compare(row: Published) -> Compared:
    if row.backbone is None:
        return Compared(row, row.depth, None)
    count = count_with_head(row.backbone, row.options).count
    return Compared(row, count.depth, count.parameters - count.training_only)


def compare_table(rows: Sequence[Compared]) -> tuple[list[str], list[list[str]]]:
    """Header, and one row per network."""
    header = ["network", "data", "layers", "parameters", "as published", "error %"]
    return header, [
        [
            row.published.label,
            row.published.data,
            str(row.depth),
            "–" if row.counted is None else f"{row.counted:,}",
            "–" if row.published.parameters is None else f"{row.published.parameters / 1e6:g} M",
            "–" if row.published.error is None else f"{row.published.error:.2f}",
        ]
        for row in rows
    ]


def compare_records(rows: Sequence[Compared]) -> list[dict[str, Any]]:
    """Plain values for a file."""
    return [
        {**asdict(row.published), "depth": row.depth, "counted_parameters": row.counted}
        for row in rows
    ]
