"""Training on tiles: pixels, boxes and masks are those of the image at the tile's place."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.detection.resizes import ShortEdge
from resdet.data.detection.tiles import cut_into_tiles
from resdet.data.detection.transforms import TestTransform, TrainTransform
from resdet.errors import UserError
from resdet.ops.tiles import Tiling
from tests.data.make import annotation, write_coco

SIZES = {1: (150, 230), 2: (90, 60), 3: (200, 100)}
TILING = Tiling(80, 0.25)
MASK = 56


def outline(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    centre = rng.uniform((10, 10), (size[1] - 10, size[0] - 10))
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(4, 30, (9, 1)) + centre
    return np.clip(points, 0, (size[1], size[0]))


@pytest.fixture(scope="module", params=["polygons", "run lengths"])
def files(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, str]:
    """Three images; the third has objects in its first 60 rows alone."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(0)
    (folder / "images").mkdir()
    images, annotations = [], []
    for image, (height, width) in SIZES.items():
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        options = {"compression": "tiff_lzw", "strip_size": 4000}
        Image.fromarray(pixels).save(folder / "images" / f"{image}.tif", **options)
        images.append({"id": image, "file_name": f"{image}.tif", "height": height, "width": width})
        for _ in range(6):
            points = outline(rng, (60 if image == 3 else height, width))
            rle = coco_mask.merge(coco_mask.frPyObjects([points.ravel().tolist()], height, width))
            box = [float(v) for v in coco_mask.toBbox(rle)]
            if box[2] < 3 or box[3] < 3:
                continue
            code = {"size": [height, width], "counts": rle["counts"].decode()}
            annotations.append(
                annotation(
                    id=len(annotations) + 1,
                    image_id=image,
                    bbox=box,
                    segmentation=[points.ravel().tolist()] if request.param == "polygons" else code,
                )
            )
    return write_coco(folder, annotations, images=images)


def read(files: tuple[str, str], *, test: bool = True) -> DetectionDataset:
    transform = (
        TestTransform(80, 80, factor=1.0)
        if test
        else TrainTransform(resize=ShortEdge([40], 40, 80))
    )
    return read_dataset(*files, transform=transform, mask_size=MASK, seed=3)


def dense(data: DetectionDataset, image: int) -> list[np.ndarray]:
    """The masks of an image's objects, as pycocotools draws them."""
    rows = np.flatnonzero(data.table.image_of == image)
    return [coco_mask.decode(data.table.rles[row]).astype(bool) for row in rows.tolist()]


def test_tiles_have_the_pixels_and_objects_of_their_place(files: tuple[str, str]) -> None:
    whole = read(files)
    data = cut_into_tiles(whole, TILING)
    assert len(data) == sum(len(TILING.windows(size)) for size in SIZES.values())
    assert data.untiled is whole and whole.untiled is whole
    seen = 0
    for index in range(len(data)):
        image = int(data.images[index])
        x1, y1, x2, y2 = data.tiles.windows[index].tolist()
        sample = data[0, index]
        assert tuple(data.sizes[index]) == sample.image.shape[1:] == (y2 - y1, x2 - x1)
        pixels = np.asarray(Image.open(data.path(index)))[y1:y2, x1:x2]
        assert np.array_equal(sample.image.numpy().transpose(1, 2, 0), pixels)
        left = [mask[y1:y2, x1:x2] for mask in dense(whole, image)]
        left = [mask for mask in left if mask.any() and min(extent(mask)) > 2]
        boxes, masks = sample.target.boxes.numpy(), sample.target.masks.numpy()
        for mask in left:
            rows = np.nonzero(mask.any(1))[0]
            columns = np.nonzero(mask.any(0))[0]
            truth = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            away = np.abs(boxes - truth).max(axis=1)
            assert away.min() < 2.5, (index, truth, boxes)
            best = int(away.argmin())
            b = boxes[best].round().astype(int)
            again = np.zeros_like(mask, np.float32)
            size = max(b[2] - b[0], 1), max(b[3] - b[1], 1)
            part = cv2.resize(masks[best].astype(np.float32), size, interpolation=cv2.INTER_AREA)
            again[b[1] : b[1] + size[1], b[0] : b[0] + size[0]] = part[
                : again.shape[0] - b[1], : again.shape[1] - b[0]
            ]
            union = (mask | (again > 0.5)).sum()
            assert (mask & (again > 0.5)).sum() / union > 0.6
            seen += 1
    assert seen > 30


def extent(mask: np.ndarray) -> tuple[int, int]:
    return int(mask.any(0).sum()), int(mask.any(1).sum())


def test_little_visible_objects_are_dropped_and_empty_tiles_chosen(files: tuple[str, str]) -> None:
    whole = read(files)
    every = cut_into_tiles(whole, TILING)
    some = cut_into_tiles(whole, TILING, min_visible=0.5)
    counts = [[len(data[0, i].target.boxes) for i in range(len(data))] for data in (every, some)]
    assert all(more >= fewer for more, fewer in zip(*counts, strict=True)) and sum(counts[0]) > sum(
        counts[1]
    )
    bare = int((np.array(every.stops) == every.starts).sum())
    assert bare >= 4
    for share in (0.0, 0.5):
        kept = cut_into_tiles(whole, TILING, empty=share, seed=5)
        assert len(kept) == len(every) - bare + round(share * bare)
        again = cut_into_tiles(whole, TILING, empty=share, seed=5)
        assert np.array_equal(kept.tiles.windows, again.tiles.windows)
    assert (kept.stops - kept.starts).sum() == len(kept.rows) == kept.objects_per_class.sum()
    assert kept.image_of_object.max() < len(kept)


def test_smaller_images_are_resized_by_the_factor_of_a_whole_tile(files: tuple[str, str]) -> None:
    data = cut_into_tiles(read(files, test=False), TILING)
    for index in range(len(data)):
        height, width = data.sizes[index].tolist()
        assert data[2, index].image.shape == (3, (height + 1) // 2, (width + 1) // 2)


def test_samples_depend_on_seed_epoch_and_index_alone(files: tuple[str, str]) -> None:
    data = cut_into_tiles(read(files, test=False), TILING)
    other = pickle.loads(pickle.dumps(data))
    for index in (7, 0, 3, 7):
        one, two = data[1, index], other[1, index]
        assert np.array_equal(one.image, two.image) and np.array_equal(
            one.target.masks, two.target.masks
        )
        assert np.array_equal(one.target.boxes, two.target.boxes)


def test_images_beyond_the_limit_are_used_where_windows_allow(files: tuple[str, str]) -> None:
    from resdet.data.detection.annotated import read_images
    from resdet.data.detection.dataset import check_dataset

    images = read_images(*files, max_pixels=8000)
    transform = TestTransform(80, 80)
    for decode_all in (False, True):
        data = check_dataset(images, transform=transform, by_windows=True, decode_all=decode_all)
        assert len(data) == 3
    assert data.looks is not None and data.looks["height"].tolist() == [150, 90, 200]
    cut = cut_into_tiles(data, TILING)
    assert cut.read(0).shape == (80, 80, 3)
    assert len(check_dataset(images, transform=transform)) == 1


def test_a_tile_of_a_broken_image_is_named(files: tuple[str, str], tmp_path: Path) -> None:
    data = cut_into_tiles(read(files), TILING)
    data.untiled.folders = [str(tmp_path)]
    with pytest.raises(UserError, match=r"1\.tif: no such image file"):
        data.read(0)
