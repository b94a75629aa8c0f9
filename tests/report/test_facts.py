"""Config differences, curves and data statistics of a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resdet.config.loading import load_any_config
from resdet.data.detection.readers import read_annotations
from resdet.report.facts import (
    POINTS,
    detection_statistics,
    differences,
    differences_from_defaults,
    training_curves,
)


def test_differences_of_configs() -> None:
    demo = load_any_config("demo_nuclei")
    changed = {each.key: (each.base, each.value) for each in differences_from_defaults(demo)}
    assert changed["model.fpn.out_channels"] == ("256", "64")
    assert changed["model.backbone.norm"] == ("null", "bn")
    assert changed["model.roi.mask_head.num_convs"][1] == "2"  # a section that is null by default
    assert "data.augment.flip_prob" not in changed
    other = load_any_config("demo_nuclei", ["optim.lr=0.01", "model.roi.mask_head=null"])
    found = {each.key: (each.base, each.value) for each in differences(demo, other)}
    assert found["optim.lr"] == ("0.02", "0.01") and found["model.roi.mask_head"][1] == "null"
    assert all(key.startswith(("optim.lr", "model.roi.mask_head")) for key in found)
    assert differences(demo, demo) == []


def test_differences_of_every_kind_of_value() -> None:
    stages = "model.roi.stages=[{foreground_iou: 0.5}, {foreground_iou: 0.6}]"
    cascade = load_any_config("demo_nuclei", [stages])
    (found,) = (e for e in differences_from_defaults(cascade) if e.key == "model.roi.stages")
    assert '"foreground_iou": 0.6' in found.value and found.base.count("foreground_iou") == 1
    configs = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
    assert len(configs) > 20
    for path in configs:
        assert differences_from_defaults(load_any_config(path)), path


def test_curves_of_a_log() -> None:
    records = [
        {"step": step, "loss": 2.0 / step + 1, "loss_a": 1.0, "loss_b": None, "lr": 0.1}
        for step in range(1, 1001)
    ]
    records += [
        {"step": 500, "eval": {"bbox": {"AP": 0.1, "AP50": -1}}, "val_loss": 900.0},
        {"step": 1000, "eval": {"bbox": {"AP": 0.2, "AP50": -1}}, "val_loss": 1.5},
    ]
    losses, rates, metrics = training_curves(records)
    by_name = {series.name: series for series in losses.series}
    assert set(by_name) == {"total", "a", "b", "validation"}
    assert len(by_name["total"].x) == len(by_name["total"].y) == POINTS
    assert (by_name["total"].x[0], by_name["total"].x[-1]) == (1, 1000)
    assert set(by_name["b"].y) == {None}
    # a loss that would flatten all others
    assert by_name["validation"].y == [None, 1.5] and "left out" in losses.note
    assert set(rates.series[0].y) == {0.1}
    assert [series.name for series in metrics.series] == ["bbox AP"]
    assert training_curves([]) == []


def test_statistics_of_the_sample_set(nuclei: Path) -> None:
    truth = read_annotations(nuclei / "annotations" / "val.json", [])
    section = detection_statistics("data.val", truth)
    assert [fact.value for fact in section.facts[:2]] == ["67", "1,974"]
    assert section.classes is not None and section.classes.rows == [["nucleus", 1974, 67, 1.0]]
    sizes, shapes, crowds = section.bars
    assert sum(sizes.values) == sum(shapes.values) == 1974 and sum(crowds.values) == 67
    assert all(len(bars.labels) == len(bars.values) for bars in section.bars)
    per_image = np.bincount(truth.image_of)
    places = dict(zip(crowds.labels, crowds.values, strict=True))
    assert places["6 to 10"] == ((per_image >= 6) & (per_image <= 10)).sum()
    assert places["51 to 100"] == (per_image > 50).sum() and places["over 100"] == 0
    empty = detection_statistics("none", truth.without_objects(list(range(67))))
    assert empty.bars == [] and empty.facts[1].value == "0"
