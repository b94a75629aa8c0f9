"""Warped crops of proposals: where each pixel comes from, which crops are drawn, and how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.data.localization.regions import (
    RegionDataset,
    collate_regions,
    read_for,
    regions_of,
    warp,
)
from resdet.files.images import open_image
from resdet.files.proposals import Proposals, ProposalWriter
from resdet.ops.boxes import decode_boxes, encode_boxes
from tests.data.make import annotation, dataset, write_coco

FILL = (1, 2, 3)


def ramp(height: int, width: int) -> np.ndarray:
    """An image whose red is the column and whose green is the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


@pytest.mark.parametrize("window", [(20, 30, 60, 90), (0, 0, 200, 150), (5, 7, 6, 8)])
def test_each_pixel_of_a_crop_comes_from_its_place_in_the_window(window: tuple[int, ...]) -> None:
    crop = warp(ramp(150, 200), window, 64, FILL).astype(float)
    x1, y1, x2, y2 = window
    # the centre of pixel i of the crop, in pixel numbers of the image
    places = (np.arange(64) + 0.5) / 64
    inside = slice(3, -3)
    columns = x1 + places * (x2 - x1) - 0.5
    rows = y1 + places * (y2 - y1) - 0.5
    columns, rows = columns.clip(x1, x2 - 1), rows.clip(y1, y2 - 1)
    assert np.abs(crop[inside, inside, 0] - columns[None, inside]).max() <= 1
    assert np.abs(crop[inside, inside, 1] - rows[inside, None]).max() <= 1


def test_context_around_a_proposal_is_filled_outside_the_image() -> None:
    box = np.array([[0.0, 40, 64, 104]])
    regions = regions_of(box, context=0.5)
    assert regions.windows.tolist() == [[-32, 8, 96, 136]]
    assert regions.frames.tolist() == [[0, 40, 64, 104]]
    crop = warp(ramp(120, 200), regions.windows[0].tolist(), 64, FILL)
    # a quarter of the crop is left of the image, an eighth below it
    assert (crop[:, :16] == FILL).all() and (crop[56:] == FILL).all()
    assert (crop[:56, 16:, 2] == 0).all() and crop[30, 63, 0] == pytest.approx(94, abs=2)


def test_regions_are_whole_pixels_and_never_empty() -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (500, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.01, 60, (500, 2))], 1)
    for context in (0.0, 0.141):
        regions = regions_of(boxes, context)
        sides = regions.windows[:, 2:] - regions.windows[:, :2]
        assert sides.min() >= 1
        inner = regions.frames[:, 2:] - regions.frames[:, :2]
        np.testing.assert_allclose(inner, sides * (1 - context), rtol=1e-5)
        large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 1
        assert np.abs(regions.frames[large] - boxes[large]).max() <= 0.5 + 1e-4
    assert len(regions_of(np.zeros((0, 4))).windows) == 0


def test_a_large_jpeg_is_decoded_smaller_with_the_same_crop(tmp_path: Path) -> None:
    y, x = np.mgrid[0:501, 0:803]
    smooth = np.stack([x / 4, y / 3, (x + y) / 8], -1).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=98)
    image = open_image(tmp_path / "a.jpg")
    windows = np.array([[11, 20, 701, 480], [100, 40, 420, 490]])
    pixels = read_for(image, windows, 64)
    assert pixels.shape == (126, 201, 3)
    for window in windows.tolist():
        small = warp(pixels, window, 64, FILL, image.size).astype(float)
        whole = warp(smooth, window, 64, FILL).astype(float)
        assert np.abs(small - whole).max() <= 4


def three_images(folder: Path, proposals: dict[int, list[list[float]]]) -> tuple[str, str]:
    """Gray pictures with a white object each, and a proposals file."""
    images, annotations = [], []
    (folder / "images").mkdir()
    objects = {1: [30, 20, 40, 30], 2: [10, 10, 24, 60], 3: [50, 15, 20, 20]}
    for number, (x, y, width, height) in objects.items():
        pixels = np.full((80, 100, 3), 60, np.uint8)
        pixels[y : y + height, x : x + width] = 255
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 80, "width": 100})
        box = [x, y, width, height]
        annotations.append(annotation(id=number, image_id=number, bbox=box, segmentation=None))
    with ProposalWriter(folder / "p.npz", ["cat", "dog"]) as writer:
        for number in objects:
            boxes = np.array(proposals.get(number, [])).reshape(-1, 4)
            scores = np.linspace(0.9, 0.1, len(boxes))
            writer.add(number, (80, 100), boxes, scores, np.zeros(len(boxes), int))
    return write_coco(folder, annotations, images=images)


PROPOSALS = {
    1: [[28, 18, 72, 52], [35.4, 20.2, 70.3, 49.6], [0, 0, 20, 30], [60, 40, 99, 79]],
    2: [[8, 9, 36, 68], [40, 10, 90, 70]],
}


def regions(folder: Path, **changes: object) -> RegionDataset:
    images = dataset(*three_images(folder, PROPOSALS), mask_size=None)
    ids = images.image_ids.tolist()
    options: dict[str, object] = {
        **{"side": 48, "context": 0.2, "fill": FILL, "rois_per_image": 4},
        **{"positive_fraction": 0.5, "foreground_iou": 0.5, "num_proposals": 200},
        **{"flip_prob": 0.5, "color_jitter": 0.0, "seed": 3},
    }
    proposals = Proposals(folder / "p.npz", ids, images.sizes, images.class_names)
    return RegionDataset(images, proposals, **options | changes)  # type: ignore[arg-type]


def plain_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


def test_the_object_is_where_the_deltas_say_in_mirrored_crops_too(tmp_path: Path) -> None:
    data = regions(tmp_path)
    mirrored = 0
    for epoch in range(12):
        sample = data[epoch, 0]
        for crop, frame, gt, positive in zip(
            sample.crops, sample.frames, sample.gt_boxes, sample.positive, strict=True
        ):
            assert bool(positive) == (plain_iou(frame.tolist(), gt.tolist()) >= 0.5)
            if not positive:
                continue
            # the gt box in pixels of the crop: the frame is its inner 80 %
            start, size = frame[:2], frame[2:] - frame[:2]
            inner = (gt.view(2, 2) - start) / size * 0.8 + 0.1
            wanted = (inner * 48).flatten()
            rows, columns = np.nonzero(crop[0].numpy() > 158)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found, wanted.clamp(0, 48).tolist(), atol=1.2)
            mirrored += int(not np.isclose(gt[0].item(), 30))
            # and the way back
            deltas = encode_boxes(gt, frame, (10.0, 10.0, 5.0, 5.0))
            back = decode_boxes(deltas, frame, (10.0, 10.0, 5.0, 5.0))
            torch.testing.assert_close(back, gt, atol=1e-3, rtol=0)
    assert 3 < mirrored < 45


def test_crops_depend_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    data = regions(tmp_path)
    first, again = data[4, 1], data[4, 1]
    assert torch.equal(first.crops, again.crops) and torch.equal(first.frames, again.frames)
    assert not torch.equal(first.frames, data[5, 1].frames)
    batch = collate_regions([data[0, 0], data[0, 1]])
    assert batch.shape == (8, 3, 48, 48) and batch.crops.dtype == torch.uint8
    assert batch.labels.tolist() == [0] * 8 and batch.image_ids == [1, 2]


def test_positives_are_drawn_with_their_chance_and_objects_where_there_are_none(
    tmp_path: Path,
) -> None:
    data = regions(tmp_path, positive_fraction=0.25, flip_prob=0.0, context=0.0)
    share = np.mean([data[epoch, 0].positive.numpy() for epoch in range(150)])
    assert share == pytest.approx(0.25, abs=0.06)
    # image 3 has no proposals at all: its object is the only region
    lone = data[0, 2]
    assert lone.positive.all() and torch.equal(lone.frames, lone.gt_boxes)
    few = regions_with_limit(data)
    assert all(few[epoch, 0].positive.all() for epoch in range(5))


def regions_with_limit(data: RegionDataset) -> RegionDataset:
    """The same of the two best proposals of each image, which are positive in the first one."""
    data.num_proposals = 2
    return data
