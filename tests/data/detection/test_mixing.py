"""Mosaic and copy-paste: boxes and masks are where the pixels are, whatever covers or cuts them.

Every object has a colour of its own, so that the picture itself tells where each one is visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.mixing import CopyPaste, Mosaic
from resdet.data.detection.outlines import Affine, rasterise, rle_outlines
from resdet.data.detection.placing import Layer, Objects, visible_boxes
from resdet.data.detection.resizes import LargeScaleJitter, ShortEdge
from resdet.data.detection.transforms import TrainTransform
from resdet.files.findings import DataError
from tests.data.make import annotation, write_coco

HEIGHT, WIDTH, PER_IMAGE, IMAGES = 60, 80, 3, 8
MASK = 56
SQUARE = np.ones((3, 3), np.uint8)


def colour(label: int) -> int:
    """Of the objects of a class, red from 0..255; there is one object per class."""
    return 20 + 9 * label


def shape(rng: np.random.Generator, slot: int) -> NDArray[np.float64]:
    """An ellipse in one of three columns of the image, or a half of one."""
    radii = np.array([rng.uniform(7, 12), rng.uniform(10, 19)])
    angles = np.linspace(0, np.pi if rng.random() < 0.3 else 2 * np.pi, 16, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points * radii + (15 + slot * 26, rng.uniform(21, 39))


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Images of three outlines each; the second object of image 1 has no outline, only its box."""
    folder, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    (folder / "images").mkdir()
    annotations, images = [], []
    for image in range(1, IMAGES + 1):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for slot in range(PER_IMAGE):
            label = (image - 1) * PER_IMAGE + slot
            points = shape(rng, slot)
            low, high = points.min(axis=0), points.max(axis=0)
            box = [*low.tolist(), *(high - low).tolist()]
            entry = annotation(
                id=label + 1,
                image_id=image,
                category_id=label + 1,
                bbox=box,
                segmentation=[points.reshape(-1).tolist()],
                score=label / 2,
            )
            annotations.append(entry)
            drawn = mask_of(points)
            if label == 1:
                del entry["segmentation"]
                drawn = mask_of(np.array([low, (high[0], low[1]), high, (low[0], high[1])]))
            pixels[drawn, 0] = colour(label)
        images.append({"id": image, "file_name": f"{image}.png", "height": HEIGHT, "width": WIDTH})
        Image.fromarray(pixels).save(folder / "images" / f"{image}.png")
    categories = [{"id": k + 1, "name": f"c{k}"} for k in range(IMAGES * PER_IMAGE)]
    return write_coco(folder, annotations, images=images, categories=categories)


def mask_of(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(H, W) pixels whose centre is inside a polygon."""
    from tests.data.detection.test_transforms import one_object

    outlines = one_object(points.tolist(), [0, 0, 1, 1]).outlines
    box, size = np.array([[0.0, 0, WIDTH, HEIGHT]]), (HEIGHT, WIDTH)
    assert outlines is not None
    return rasterise(outlines, box, size, affine=Affine(), image_size=size)[0].astype(bool)


def data(coloured: tuple[str, str], **options: Any) -> DetectionDataset:
    keys = {key: options.pop(key) for key in ("mask_size", "keep_empty") if key in options}
    options.setdefault("resize", ShortEdge([HEIGHT], 1000))
    transform = TrainTransform(vertical_flip_prob=0.5, **options)
    keys.setdefault("mask_size", MASK)
    return read_dataset(*coloured, transform=transform, extras=["score"], **keys)


def without_repeats(dataset: DetectionDataset, keys: Iterable[tuple[int, int]]) -> Iterator[Any]:
    """The samples that show no image twice, and their index: each colour is one object there."""
    reads: list[int] = []
    read = dataset.read
    dataset.read = lambda index: reads.append(index) or read(index)  # type: ignore
    for key in keys:
        reads.clear()
        sample = dataset[key]
        assert reads[0] == key[1] and key[1] not in reads[1:]
        if len(set(reads)) == len(reads):
            yield key[1], sample


def compare(sample: Any) -> tuple[set[int], int]:
    """The labels of a sample whose box and mask are those of its colour; and dropped pixels."""
    red = sample.image[0].numpy()
    height, width = red.shape
    target, labels = sample.target, sample.target.labels.tolist()
    assert target.masks is not None and len(labels) == len(target.boxes) == len(target.masks)
    for row, label in enumerate(labels):
        box = target.boxes[row].numpy()
        assert (box >= 0).all() and box[2] <= width and box[3] <= height
        ys, xs = np.nonzero(red == colour(label))
        assert len(ys), label
        extent = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        np.testing.assert_allclose(box, extent, atol=2.0)
        # where the pixels around a cell's are all of the object, or none is: the outline's border
        # is finer than a pixel
        seen = (red == colour(label)).astype(np.uint8)
        inside, outside = cv2.erode(seen, SQUARE), 1 - cv2.dilate(seen, SQUARE)
        centres = (np.arange(MASK) + 0.5) / MASK
        columns = (box[0] + centres * (box[2] - box[0])).astype(int).clip(0, width - 1)
        rows = (box[1] + centres * (box[3] - box[1])).astype(int).clip(0, height - 1)
        mask = target.masks[row].numpy()
        for expected, where in ((1, inside), (0, outside)):
            cells = mask[where[rows[:, None], columns[None]].astype(bool)]
            assert not len(cells) or (cells == expected).mean() > 0.9, label
        assert target.extra["score"][row] == label / 2
    dropped = sum(
        int((red == colour(label)).sum())
        for label in range(IMAGES * PER_IMAGE)
        if label not in labels
    )
    return set(labels), dropped


MIXES = {
    "mosaic": {"mosaic": Mosaic(1.0, (1.0, 1.0), 0.1)},
    "copy_paste": {"copy_paste": CopyPaste(1.0, 100, 0.1, 0.0)},
    "both": {
        "mosaic": Mosaic(1.0, (1.0, 1.0), 0.1),
        "copy_paste": CopyPaste(1.0, 100, 0.1, 0.0),
    },
    "cropped": {
        "mosaic": Mosaic(1.0, (1.0, 1.0), 0.1),
        "copy_paste": CopyPaste(1.0, 2, 0.1, 0.0),
        "crop": (50, 50),
    },
}


@pytest.mark.parametrize("name", MIXES)
def test_boxes_masks_and_extras_are_where_the_pixels_are(
    coloured: tuple[str, str], name: str
) -> None:
    dataset = data(coloured, **MIXES[name])
    count, covered, foreign, dropped = 0, 0, 0, 0
    keys = [(epoch, index) for epoch in range(5) for index in range(IMAGES)]
    for index, sample in without_repeats(dataset, keys):
        own = set(range(index * PER_IMAGE, (index + 1) * PER_IMAGE))
        labels, pixels = compare(sample)
        count += 1
        foreign += len(labels - own)
        covered += len(own - labels)
        dropped += pixels
        limit = (50, 50) if name == "cropped" else (HEIGHT, WIDTH)
        assert tuple(sample.image.shape[1:]) == limit
    assert count >= 8 and foreign > count
    assert covered > 0
    # less than a tenth of an object is left without a target
    assert dropped < 0.02 * count * HEIGHT * WIDTH


def test_scaled_images_and_jitter(coloured: tuple[str, str]) -> None:
    """With interpolated pixels the colours are not exact: the masks are compared by their areas."""
    for resize in (ShortEdge([90], 1000), LargeScaleJitter(96, (0.5, 1.5))):
        mosaic, paste = Mosaic(1.0, (0.5, 1.5), 0.1), CopyPaste(1.0, 3, 0.1, 0.0)
        dataset = data(coloured, resize=resize, mosaic=mosaic, copy_paste=paste)
        good = total = 0
        for index in range(IMAGES):
            sample = dataset[(0, index)]
            red = sample.image[0].numpy().astype(int)
            target = sample.target
            assert target.masks is not None
            for box, label, mask in zip(target.boxes, target.labels, target.masks, strict=True):
                x0, y0, x1, y1 = box.tolist()
                area = float((x1 - x0) * (y1 - y0) * mask.float().mean())
                window = red[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
                seen = int((abs(window - colour(int(label))) <= 4).sum())
                good += abs(seen - area) < 0.35 * area + 12
                total += 1
        assert total > 30 and good > 0.95 * total


def test_a_covered_object_is_dropped_or_keeps_the_rest(coloured: tuple[str, str]) -> None:
    rare = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.9, 0.0))
    all_kept = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.0, 0.0))
    keys = [(epoch, index) for epoch in range(4) for index in range(IMAGES)]
    pairs = [(rare[key].target.labels, all_kept[key].target.labels) for key in keys]
    assert all(set(few.tolist()) <= set(many.tolist()) for few, many in pairs)
    assert sum(len(few) < len(many) for few, many in pairs) > 3


@pytest.mark.parametrize(("covered", "is_left"), [(4, True), (8, False)])
def test_what_a_crop_cuts_does_not_count_as_covered(covered: int, is_left: bool) -> None:
    """An object of 10 × 10 pixels, of which the picture has 3 columns, and `covered` rows of these
    are pasted over; half of what the picture has must stay."""
    square, over = np.ones((10, 10), np.uint8), np.zeros((10, 20), np.uint8)
    over[:covered, :3] = 1
    base = Layer(one_object(square), Affine(shift_x=-7), (10, 10), (0, 0, 3, 10))
    second = Layer(one_object(over), Affine(), (10, 20), (0, 0, 20, 10))
    picture = np.zeros((10, 20, 3), np.uint8)
    paste = CopyPaste(1.0, 1, 0.5, 0.0)
    _, layers = paste(picture, [base], (picture, second), np.random.default_rng(0))
    assert len(visible_boxes(layers[0])[0]) == is_left


def one_object(mask: NDArray[np.uint8]) -> Objects:
    ys, xs = np.nonzero(mask)
    box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
    code = coco_mask.encode(np.asfortranarray(mask))["counts"]
    return Objects(box, np.zeros(1, np.int64), rle_outlines([code]))


def test_nothing_random_is_left(coloured: tuple[str, str]) -> None:
    """A sample depends on (seed, epoch, index) alone, and one that is not mixed is what it is
    without the options."""
    mixed, again = (data(coloured, **MIXES["both"]) for _ in range(2))
    for key in [(0, 3), (5, 3), (5, 4)]:
        first, second = mixed[key], again[key]
        assert torch.equal(first.image, second.image)
        assert torch.equal(first.target.boxes, second.target.boxes)
    assert not torch.equal(mixed[(0, 3)].image, mixed[(1, 3)].image)
    never = {
        "mosaic": Mosaic(0.0, (1.0, 1.0), 0.1),
        "copy_paste": CopyPaste(0.0, 100, 0.1, 0.0),
    }
    plain, off = data(coloured), data(coloured, **never)
    assert torch.equal(plain[(2, 5)].image, off[(2, 5)].image)
    assert isinstance(mixed.transform, TrainTransform)
    mixed.transform.mosaic_until, mixed.transform.copy_paste = 2, None
    assert torch.equal(mixed[(2, 5)].image, plain[(2, 5)].image)
    assert not torch.equal(mixed[(1, 5)].image, plain[(1, 5)].image)


def test_probabilities(coloured: tuple[str, str]) -> None:
    plain = data(coloured)
    for mix in ({"mosaic": Mosaic(0.25, (1, 1), 0.1)}, {"copy_paste": CopyPaste(0.25, 9, 0, 0)}):
        mixed = data(coloured, **mix)
        changed = [
            not torch.equal(mixed[(epoch, 1)].image, plain[(epoch, 1)].image)
            for epoch in range(100)
        ]
        assert 0.14 < np.mean(changed) < 0.36


def test_objects_of_which_only_the_box_is_known_are_not_pasted(coloured: tuple[str, str]) -> None:
    dataset = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.1, 0.0))
    keys = [(epoch, index) for epoch in range(8) for index in range(1, IMAGES)]
    seen = {label for key in keys for label in dataset[key].target.labels.tolist()}
    assert 1 not in seen and {0, 2} <= seen


def test_blending_smooths_the_borders(coloured: tuple[str, str]) -> None:
    sharp = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.1, 0.0))
    smooth = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.1, 1.5))
    different = 0
    for index in range(IMAGES):
        one, two = sharp[(0, index)], smooth[(0, index)]
        assert torch.equal(one.target.boxes, two.target.boxes)
        known = {0, *map(colour, range(IMAGES * PER_IMAGE))}
        assert set(one.image[0].unique().tolist()) <= known
        different += len(set(two.image[0].unique().tolist()) - known)
    assert different > 50


def test_boxes_alone(coloured: tuple[str, str], tmp_path: Path) -> None:
    """Without a mask head boxes are still those of what is visible; data of boxes alone can be made
    mosaics of, and pasting from them is an error that names the remedy."""
    masks = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.1, 0.0))
    boxes = data(coloured, copy_paste=CopyPaste(1.0, 100, 0.1, 0.0), mask_size=None)
    for key in [(0, 0), (1, 4), (2, 6)]:
        assert boxes[key].target.masks is None
        assert torch.equal(boxes[key].target.boxes, masks[key].target.boxes)
    only = [annotation(segmentation=None), annotation(id=2, image_id=2, segmentation=None)]
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    paths = write_coco(tmp_path, only, images=images)
    transform = TrainTransform(resize=ShortEdge([40], 90), mosaic=Mosaic(1.0, (0.5, 1.5), 0.1))
    dataset = read_dataset(*paths, transform=transform, mask_size=None)
    counts = [len(dataset[(epoch, 0)].target.labels) for epoch in range(20)]
    assert max(counts) > 1
    transform = TrainTransform(resize=ShortEdge([40], 90), copy_paste=CopyPaste(1, 9, 0.1, 0))
    with pytest.raises(DataError, match=r"no object has a segmentation, which copy-paste needs; "):
        read_dataset(*paths, transform=transform, mask_size=None)


def test_broken_partners_are_left_out(coloured: tuple[str, str], monkeypatch: Any) -> None:
    dataset = data(coloured, **MIXES["both"])
    read = dataset.read

    def broken(index: int) -> NDArray[np.uint8]:
        if index != 2:
            raise DataError("broken")
        return read(index)

    monkeypatch.setattr(dataset, "read", broken)
    seen = set()
    for epoch in range(8):
        labels, _ = compare(dataset[(epoch, 2)])
        seen |= labels
    assert seen == {6, 7, 8}
    with pytest.raises(DataError):
        dataset[(0, 3)]


def test_albumentations_and_images_without_objects(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2, 3)]
    crowd = annotation(id=2, image_id=2, iscrowd=1)
    paths = write_coco(tmp_path, [annotation(), crowd], images=images)
    transform = TrainTransform(
        resize=LargeScaleJitter(48, (0.5, 2.0)),
        albumentations=[{"name": "Affine", "rotate": (-30, 30), "p": 1.0}],
        **MIXES["both"],
    )
    dataset = read_dataset(*paths, transform=transform, keep_empty=True, mask_size=28)
    assert len(dataset) == 3
    samples = [dataset[(epoch, index)] for epoch in range(10) for index in range(3)]
    counts = [len(sample.target.labels) for sample in samples]
    assert min(counts) == 0 and max(counts) > 0
    for sample in samples:
        assert sample.target.masks is not None and sample.target.masks.shape[1:] == (28, 28)
        assert len(sample.target.masks) == len(sample.target.labels)
        assert bool(sample.target.masks.flatten(1).any(dim=1).all())
    # the crowd region is a target in no picture
    assert all(label == 0 for sample in samples for label in sample.target.labels.tolist())
