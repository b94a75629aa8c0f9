"""What a name means: a network of the registry, or a config of either task."""

from __future__ import annotations

import pytest

from resdet.analysis.compare import PUBLISHED, compare_published, compare_table
from resdet.analysis.networks import count_named
from resdet.errors import UserError


def test_a_registry_name_takes_overrides_and_a_size() -> None:
    v1 = count_named("resnet50", ["model.backbone.stride_in_1x1=true"])
    assert round(v1.count.multiply_adds / 1e9, 3) == 3.858
    assert count_named("resnet50", ["data.test_size=160"]).count.image_size == (160, 160)
    wide = count_named("resnet18", ["model.num_classes=7"], (64, 96))
    assert (wide.num_classes, wide.count.image_size) == (7, (64, 96))
    assert wide.count.parameters == 11_689_512 - 993 * 513


def test_a_classification_config(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "task: classification\nmodel: {backbone: {name: cifar_resnet20}, pixel_mean: per_pixel}\n"
        "data: {format: cifar100, size: 32, test_size: 32}\ntrain: {epochs: 1}\n"
    )
    network = count_named(str(path))
    assert (network.name, network.num_classes) == ("mine", 100)
    assert network.count.parameters == 269_722 + 90 * 65
    assert count_named(str(path), ["data.format=folder"]).num_classes == 1000


def test_of_a_detector_the_backbone_is_counted() -> None:
    network = count_named("coco_mask_rcnn_r50")
    assert (network.name, network.num_classes) == ("coco_mask_rcnn_r50, backbone", None)
    # a short side of 800 at 4:3, padded to 32
    assert network.count.image_size == (800, 1088)
    assert network.count.depth == 49
    # the multiply-adds of 224×224 without the last layer, scaled by the area
    scaled = (4_089_184_256 - 2_048_000) * 800 * 1088 / 224**2
    assert network.count.multiply_adds == pytest.approx(scaled, rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5",), "as a backbone, did you mean resnet50"),
        (("vgg16", [], (16, 16)), r"vgg16 does not accept images of 16×16 pixels \(.*--image-size"),
        (("resnet50", ["model.backbone.shape=1"]), "model.backbone.shape"),
        (("resnet50", ["model.backbone.name=null"]), "model.backbone.name: null takes"),
    ],
)
def test_mistakes(arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        count_named(*arguments)


def test_the_comparison_agrees_with_what_was_published() -> None:
    small = [row for row in PUBLISHED if row.depth < 100]
    compared = compare_published(small)
    assert {row.published.label for row in compared if row.counted is None} == {"FitNet"}
    for row in compared:
        assert row.depth == row.published.depth
        if row.published.parameters is not None:
            assert row.parameters == pytest.approx(row.published.parameters, rel=0.035)
    header, rows = compare_table(compared)
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert table["Highway-19"]["as published"] == "2.3 M"
    assert table["FitNet"]["parameters"] == "–"
    assert table["ResNet-56"] == {
        "network": "ResNet-56",
        "data": "cifar10",
        "layers": "56",
        "parameters": "853,018",
        "as published": "0.85 M",
        "error %": "6.97",
    }
