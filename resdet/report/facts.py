"""What a report says of a run beside its results: config, data, curves of the training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_jsonable_python

from resdet.config.loading import AnyConfig, config_to_dict
from resdet.data.detection.statistics import Statistics, halving_bins, statistics_of
from resdet.data.detection.table import AnnotationTable
from resdet.report.data import (
    Bars,
    Cell,
    Chart,
    ConfigDifference,
    DataStatistics,
    Fact,
    Series,
    Table,
)
from resdet.viz.plots import smooth

OUTLIER = 5
"""A validation loss above so many times the largest training loss would flatten the rest."""
POINTS = 200
"""Of a curve over the steps of a run."""
CROWDS = (0, 1, 2, 3, 5, 10, 20, 50, 100)
RATIOS = (0.2, 0.33, 0.5, 0.67, 0.8, 1.25, 1.5, 2.0, 3.0, 5.0)
NAMES = ("small", "medium", "large")


def differences_from_defaults(config: AnyConfig) -> list[ConfigDifference]:
    """The keys whose values are not the schema's defaults, and those that have no default."""
    changed = config.model_dump(mode="json", exclude_defaults=True)
    defaults = _defaults(type(config))
    return [
        ConfigDifference(key, _shown(defaults.get(key, "")), _shown(value))
        for key, value in _leaves(changed)
    ]


def differences(first: AnyConfig, other: AnyConfig) -> list[ConfigDifference]:
    """The keys that two runs do not have in common, or with other values."""
    old, new = (dict(_leaves(config_to_dict(each))) for each in (first, other))
    keys = [*old, *(key for key in new if key not in old)]
    return [
        ConfigDifference(key, _shown(old.get(key, "")), _shown(new.get(key, "")))
        for key in keys
        if old.get(key, _shown) != new.get(key, _shown)
    ]


def _defaults(schema: type[Any]) -> dict[str, Any]:
    """The default of each key that has one, by dotted name."""
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            values |= {f"{name}.{key}": value for key, value in _defaults(inner).items()}
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            plain = to_jsonable_python(default)
            values |= {f"{name}.{k}" if k else name: v for k, v in _leaves(plain)}
    return values


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted key, value) of everything but mappings; an empty one is a value."""
    if not isinstance(values, Mapping) or not values:
        return [(prefix, values)]
    dot = f"{prefix}." if prefix else ""
    return [leaf for key, each in values.items() for leaf in _leaves(each, f"{dot}{key}")]


def _shown(value: Any) -> str:
    """As YAML would have it in one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def training_curves(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Losses, learning rate and metrics over steps, from the lines of log.jsonl."""
    train = [record for record in records if "loss" in record]
    evals = [record for record in records if record.get("eval") or record.get("val_loss")]
    charts = []
    names = list(dict.fromkeys(key for r in train for key in r if key.startswith("loss")))
    names = ["loss"] if len(names) == 2 else names  # the one term is the total
    losses = [_smoothed(train, name) for name in names]
    note = "Smoothed over the steps."
    points = [(r["step"], r["val_loss"]) for r in evals if r.get("val_loss") is not None]
    if points:
        known = [value for one in losses for value in one.y if value is not None]
        limit = OUTLIER * max(known, default=np.inf)
        shown = [value if value <= limit else None for _, value in points]
        losses.append(Series("validation", [step for step, _ in points], shown))
        if None in shown:
            note += f" {shown.count(None)} validation loss(es) above {limit:.3g} are left out."
    if losses:
        charts.append(Chart("Losses", "step", "loss", losses, note=note))
    rates = [(record["step"], record["lr"]) for record in train if "lr" in record]
    if rates:
        chosen = _thinned(len(rates))
        steps = [rates[k][0] for k in chosen]
        series = Series("learning rate", steps, [rates[k][1] for k in chosen])
        charts.append(Chart("Learning rate", "step", "learning rate", [series]))
    metrics = _metric_series(evals)
    if metrics:
        charts.append(Chart("Validation", "step", "metric", metrics))
    return charts


def _smoothed(train: Sequence[Mapping[str, Any]], name: str) -> Series:
    points = [(r["step"], r[name]) for r in train if name in r]
    values = np.array([value for _, value in points], dtype=np.float64)
    smoothed = smooth(values, max(1, len(values) // 20))
    chosen = _thinned(len(points))
    return Series(
        "total" if name == "loss" else name.removeprefix("loss_"),
        [points[k][0] for k in chosen],
        [float(f"{smoothed[k]:.5g}") if np.isfinite(smoothed[k]) else None for k in chosen],
    )


def _thinned(count: int) -> list[int]:
    """Up to `POINTS` positions, evenly spaced, first and last included."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int)).tolist()


def _metric_series(evals: Sequence[Mapping[str, Any]]) -> list[Series]:
    """The first three numbers of each group."""
    found: dict[str, list[tuple[int, float]]] = {}
    for record in evals:
        summary = record.get("eval") or {}
        groups = {name: each for name, each in summary.items() if isinstance(each, Mapping)}
        plain = {name: v for name, v in summary.items() if isinstance(v, float)}
        for group, numbers in (groups or {"": plain}).items():
            for name, value in list(numbers.items())[:3]:
                if isinstance(value, int | float) and value > -1:
                    found.setdefault(f"{group} {name}".strip(), []).append((record["step"], value))
    return [
        Series(name, [step for step, _ in points], [round(value, 5) for _, value in points])
        for name, points in found.items()
    ]


def detection_statistics(name: str, table: AnnotationTable) -> DataStatistics:
    """Objects of one part of the data: by class, size, shape and crowding."""
    numbers = statistics_of(table)
    per_image, count = numbers.objects_per_image, len(numbers.rows)
    images = numbers.num_images
    facts = [Fact("images", f"{images:,}"), Fact("objects", f"{count:,}")]
    if images:
        spread = f"median {np.median(per_image):.0f}, at most {per_image.max()}"
        facts.append(Fact("objects per image", f"{count / images:.1f}", spread))
        facts.append(Fact("images without objects", f"{int((per_image == 0).sum()):,}"))
    if table.crowd.any():
        facts.append(Fact("crowd regions", f"{int(table.crowd.sum()):,}"))
    if count:
        shares = np.bincount(numbers.size_names, minlength=3) / count
        words = ", ".join(f"{share:.0%} {each}" for share, each in zip(shares, NAMES, strict=True))
        facts.append(Fact("sizes", words, "small under 32² px², large from 96² px²"))
    known = table.sizes[(table.sizes > 0).all(axis=1)]
    if len(known):
        heights, widths = (np.median(side) for side in known.T)
        facts.append(Fact("median image", f"{widths:.0f}×{heights:.0f} pixels"))
    return DataStatistics(name, facts, class_counts(numbers), _histograms(numbers))


def class_counts(numbers: Statistics) -> Table:
    """Objects and images of each class, the commonest first."""
    objects, images = numbers.objects_per_class, numbers.images_per_class
    total = max(int(objects.sum()), 1)
    rows: list[list[Cell]] = [
        [numbers.table.class_names[k], int(objects[k]), int(images[k]), float(objects[k] / total)]
        for k in np.argsort(-objects, kind="stable").tolist()
    ]
    columns = ["class", "objects", "images", "share of objects"]
    return Table("Classes", columns, rows, bars="share of objects")


def _histograms(numbers: Statistics) -> list[Bars]:
    if not len(numbers.rows):
        return []
    edges, counts = halving_bins(np.sqrt(numbers.areas))
    labels = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    sizes = Bars(
        "Size of objects",
        "square root of the area, pixels",
        "objects",
        labels,
        counts.tolist(),
    )
    ratios = numbers.aspect_ratios[np.isfinite(numbers.aspect_ratios)]
    shapes = _binned("Width to height", "width / height", "objects", ratios, RATIOS)
    per_image = numbers.objects_per_image
    tops = [limit + 1 for limit in CROWDS]
    crowds = np.bincount(np.digitize(per_image, tops), minlength=len(CROWDS) + 1)
    ranges = (f"{low + 1} to {high}" for low, high in pairwise(CROWDS[3:]))
    names = [*map(str, CROWDS[:4]), *ranges]
    names.append(f"over {CROWDS[-1]}")
    return [
        sizes,
        shapes,
        Bars("Objects per image", "objects", "images", names, crowds.tolist()),
    ]


def _binned(
    title: str, x_label: str, y_label: str, values: NDArray[Any], limits: Sequence[float]
) -> Bars:
    counts = np.bincount(np.digitize(values, limits), minlength=len(limits) + 1)
    between = [f"{low:g} to {high:g}" for low, high in pairwise(limits)]
    labels = [f"under {limits[0]:g}", *between, f"{limits[-1]:g} or more"]
    return Bars(title, x_label, y_label, labels, counts.tolist())
