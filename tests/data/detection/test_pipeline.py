"""albumentations: checked when built, in step, and random by seed alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resdet.data.detection.dataset import read_dataset
from resdet.data.detection.pipeline import Pipeline
from resdet.errors import UserError
from resdet.files.findings import DataError
from tests.data.make import annotation, dataset, train_transform, write_coco

NO_BOXES = np.zeros((0, 4), np.float32)


def noise(height: int = 60, width: int = 80) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "ColorJiter"}, r"\[0\]: albumentations 2.0.8 has no 'ColorJiter'; .*ColorJitter"),
        ({"name": "ColorJitter", "brigtness": 0.3}, "no argument 'brigtness'; .*brightness"),
        ({"name": "ColorJitter", "brightness": "much"}, r"(?s)\[0\]: ColorJitter: .*brightness"),
        ({"name": "Rotate", "p": 7}, r"(?s)\[0\]: Rotate: .*less than or equal to 1"),
        ({"p": 0.5}, r"\[0\]: give \{name: ColorJitter"),
        ({"name": "Mosaic"}, "Mosaic needs mosaic_metadata"),
        ({"name": "ToTensorV2"}, "ToTensorV2 does not move boxes and masks"),
        ({"name": "OneOf", "transforms": []}, "OneOf needs transforms"),
        (
            {"name": "OneOf", "transforms": [{"name": "Blurr"}]},
            r"\[0\]\.transforms\[0\]: .*no 'Blurr'",
        ),
        ({"name": "BasicTransform"}, "has no 'BasicTransform'"),
    ],
)
def test_mistakes_are_named_when_built(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Pipeline([entry])


def test_what_makes_no_image_is_an_error() -> None:
    with pytest.raises(UserError, match=r"Normalize made an array .*float32.*uint8 is needed"):
        Pipeline([{"name": "Normalize"}])(noise(), NO_BOXES, None, 0)
    with pytest.raises(UserError, match="RandomCrop failed on an image of 80×60 pixels"):
        crop = {"name": "RandomCrop", "height": 500, "width": 500}
        Pipeline([crop])(noise(), NO_BOXES, None, 0)


def test_photometric_ones_leave_boxes_and_outlines(nuclei: Path) -> None:
    entries = [
        {"name": "ColorJitter", "p": 1.0},
        {"name": "OneOf", "p": 1.0, "transforms": [{"name": "GaussNoise"}, {"name": "MedianBlur"}]},
    ]
    source = (str(nuclei / "images"), str(nuclei / "annotations" / "val.json"))
    plain = read_dataset(*source, transform=train_transform())[(0, 1)]
    changed = read_dataset(*source, transform=train_transform(albumentations=entries))[(0, 1)]
    assert not torch.equal(plain.image, changed.image)
    assert torch.equal(plain.target.boxes, changed.target.boxes)
    assert plain.target.masks is not None and changed.target.masks is not None
    assert torch.equal(plain.target.masks, changed.target.masks)


def test_spatial_ones_keep_boxes_labels_and_masks_in_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = [2, 0, 30, 0, 30, 8, 2, 8]
    big = [30, 30, 58, 30, 58, 38, 30, 38]
    source = write_coco(
        tmp_path,
        [
            annotation(id=1, category_id=7, bbox=[2, 0, 28, 8], segmentation=[small]),
            annotation(id=2, bbox=[30, 30, 28, 8], segmentation=[big]),
        ],
    )
    entries = [{"name": "RandomCrop", "height": 24, "width": 60, "p": 1.0}]
    with caplog.at_level(logging.INFO, logger="resdet"):
        transform = train_transform(albumentations=entries, flip_prob=0.0)
    assert "RandomCrop move pixels on dense masks" in caplog.text
    data = dataset(*source, transform=transform)
    seen = set()
    for epoch in range(40):
        sample = data[(epoch, 0)]
        target = sample.target
        assert target.masks is not None
        assert len(target.boxes) == len(target.labels) == len(target.masks)
        assert target.labels.dtype == torch.int64
        seen.add(tuple(target.labels.tolist()))
        for box, mask in zip(target.boxes, target.masks, strict=True):
            assert (box[2:] > box[:2]).all()
            assert mask.float().mean() > 0.9  # both objects are rectangles
    assert seen == {(0,), (1,), (1, 0)}


def test_spatial_ones_work_without_masks_and_without_objects(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    source = write_coco(tmp_path, [annotation()], images=images)
    entries = [{"name": "HorizontalFlip", "p": 1.0}]
    transform = train_transform(albumentations=entries, flip_prob=0.0)
    for mask_size in (None, 28):
        data = dataset(*source, transform=transform, mask_size=mask_size)
        with_object, without = data[(0, 0)], data[(0, 1)]
        scale = with_object.image.shape[2] / 60
        torch.testing.assert_close(
            with_object.target.boxes[0, [0, 2]] / scale, torch.tensor([30.0, 50.0])
        )
        assert without.target.boxes.shape == (0, 4)
        assert without.target.labels.shape == (0,)


def test_streams_are_distinct_and_repeat(nuclei: Path) -> None:
    entries = [
        {"name": "RandomBrightnessContrast", "p": 0.5},
        {"name": "HueSaturationValue", "p": 0.5},
        {"name": "GaussNoise", "p": 0.5},
    ]
    data = read_dataset(
        str(nuclei / "images"),
        str(nuclei / "annotations" / "val.json"),
        transform=train_transform(albumentations=entries),
        seed=5,
    )
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]
    first = [data[key].image for key in keys]
    torch.manual_seed(1)
    np.random.seed(1)
    again = [data[key].image for key in reversed(keys)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    same_image = [first[keys.index((epoch, 2))] for epoch in range(3)]
    assert len({image.float().mean().item() for image in same_image}) == 3


def test_transforms_do_not_fire_together() -> None:
    # With set_random_seed each transform would draw the same numbers.
    flips = [{"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5}]
    pipeline = Pipeline(flips)
    image = noise(8, 8)
    states = set()
    for seed in range(40):
        result = pipeline(image, NO_BOXES, None, seed)[0]
        states.add((np.array_equal(result, image[:, ::-1]), np.array_equal(result, image[::-1])))
    assert {(True, False), (False, True)} <= states
