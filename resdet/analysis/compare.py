"""Depth, parameters and error of ResNets compared with GoogLeNet, FitNet, Highway and VGG.

Networks of the registry are counted; published numbers have their sources in published.yaml.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from resdet.analysis.networks import count_with_head


@dataclass(frozen=True)
class Published:
    """A network as its authors, or others who compare with it, describe it."""

    label: str
    data: str
    """cifar10 or imagenet."""
    depth: int
    parameters: float | None
    """As printed; None if only ours are counted."""
    error: float | None
    """Percent: test error on CIFAR-10 (He et al. 2016, table 6), top-5 of 10 crops on ImageNet's
    validation images (table 3); None where not printed."""
    backbone: str | None = None
    """Name in the registry, whose parameters are counted; None if there is none."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the backbone."""


PUBLISHED = [
    Published(*row)
    for row in yaml.safe_load(
        Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    )
]


@dataclass
class Compared:
    """A published network and resdet's counts."""

    published: Published
    depth: int
    """Counted if the registry has the network, else as published."""
    counted: int | None
    """Parameters without auxiliary classifiers; None if the registry has no such network."""

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
