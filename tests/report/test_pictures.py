"""Pictures stay within their bytes, and outlines enclose the pixels of their masks."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as mask_utils

from resdet.data.detection.dataset import read_dataset
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.transforms import TestTransform
from resdet.files.findings import DataError
from resdet.files.windows import WholeImage, Windows
from resdet.report.data import Mark
from resdet.report.pictures import (
    MAX_PICTURES,
    STEPS,
    Album,
    Entry,
    Marks,
    encode,
    picture,
    picture_side,
    svg_path,
)
from resdet.report.source import TruthImages


def filled(path: str, size: tuple[int, int]) -> np.ndarray:
    """The pixels inside an SVG path of lines, by the even-odd rule."""
    inside = np.zeros(size, bool)
    for x, y, steps in re.findall(r"M(-?\d+) (-?\d+)l([-\d ]+)z", path):
        points = [(int(x), int(y))]
        numbers = list(map(int, steps.split()))
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            points.append((points[-1][0] + dx, points[-1][1] + dy))
        ring = Image.new("1", size[::-1])
        # Pillow fills the pixels of the outline as well; half a pixel in from it they are inside
        ImageDraw.Draw(ring).polygon([(px - 0.5, py - 0.5) for px, py in points], fill=1)
        inside ^= np.asarray(ring)
    return inside


def random_mask(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    image = Image.new("1", size[::-1])
    box = sorted(rng.integers(0, size[1], 2).tolist()), sorted(rng.integers(0, size[0], 2).tolist())
    (x1, x2), (y1, y2) = box
    ImageDraw.Draw(image).ellipse((x1, y1, x2 + 12, y2 + 12), fill=1)
    if x2 - x1 > 30 and y2 - y1 > 30:  # a hole
        ImageDraw.Draw(image).ellipse((x1 + 10, y1 + 10, x2 - 5, y2 - 5), fill=0)
    return np.asarray(image).astype(np.uint8)


@pytest.mark.parametrize("scale", [1.0, 2.0, 0.5, 0.2])
def test_outlines_enclose_their_masks(scale: float) -> None:
    rng = np.random.default_rng(1)
    for _ in range(12):
        mask = random_mask(rng, (200, 300))
        path = svg_path(mask_utils.encode(np.asfortranarray(mask)), scale, 0.5)
        size = round(200 * scale), round(300 * scale)
        expected = np.asarray(Image.fromarray(255 * mask).resize(size[::-1], Image.Resampling.BOX))
        inside = filled(path, size)
        # they may differ along the outline alone
        around = (expected > 0) & (expected < 255)
        edge = np.pad(expected > 127, 1, mode="edge")
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (2, 2), (0, 2), (2, 0)):
            moved = edge[dy : dy + size[0], dx : dx + size[1]]
            around |= moved != (expected > 127)
        wrong = (inside != (expected > 127)) & ~around
        assert wrong.sum() <= 0.03 * max((expected > 127).sum(), 100)


def test_pictures_stay_within_their_bytes() -> None:
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 256, (900, 1400, 3), dtype=np.uint8)
    for most in (300_000, 60_000, 20_000):
        data, side = encode(noise, most)
        assert side in [step for step, _ in STEPS]
        assert len(data) <= most or side == STEPS[-1][0]
    assert [picture_side(side, 720) for side in (4000, 500, 256, 100, 1)] == [
        720,
        500,
        512,
        400,
        320,
    ]


def test_an_image_that_cannot_be_read_keeps_its_marks() -> None:
    def gone() -> Windows:
        raise DataError("a.png: no such file")

    def marks(scale: float, path: object) -> tuple[list[Mark], list[Mark]]:
        return [Mark((0, 0, 10 * scale, 10), 0, "missed", partner=0)], [
            Mark((0, 0, 1, 1), 0, "Bkg")
        ]

    problems: list[str] = []
    one = Marks(marks, lambda: (1, 1))
    entry = Entry("a.png", gone, (500, 1000), [one, one])
    made = picture(entry, 1000, 1000, problems)
    assert made.jpeg == b"" and (made.height, made.width) == (360, 720)
    assert problems == ["a.png: no such file"] and made.truths[0].box[2] == pytest.approx(7.2)
    # the marks of a second run point to its own
    assert [mark.partner for mark in made.truths] == [0, 1]


def test_images_that_are_too_large_to_be_decoded_are_read_by_windows(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (600, 900, 3), np.uint8)
    names = ("large.tif", "large.png")
    Image.fromarray(pixels).save(tmp_path / names[0], compression="tiff_lzw")
    Image.fromarray(pixels).save(tmp_path / names[1])
    entries = [
        {"id": number, "file_name": name, "width": 900, "height": 600}
        for number, name in enumerate(names, 1)
    ]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [90, 60, 9, 6], "area": 54}
    truth = {"images": entries, "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "val.json").write_text(json.dumps(truth))
    transform = TestTransform(800, 1333)
    annotations = str(tmp_path / "val.json")
    data = read_dataset(str(tmp_path), annotations, transform=transform, mask_size=None)
    data.max_pixels = 100_000
    images = TruthImages(data.table, data)
    problems: list[str] = []
    made, left_out = (picture(images.entry(row), 10**6, 1000, problems) for row in range(2))
    assert (made.width, made.height, made.original) == (720, 480, (600, 900))
    assert Image.open(io.BytesIO(made.jpeg)).size == (720, 480)
    assert left_out.jpeg == b"" and "large.png: has 900×600 pixels" in problems[0]


def test_an_album_has_each_image_once_and_not_too_many() -> None:
    album = Album()
    image = np.zeros((8, 8, 3), np.uint8)
    for key in [*map(str, range(MAX_PICTURES + 5)), "3"]:
        album.row(key, lambda: Entry("x", lambda: WholeImage(image), (8, 8)))
    assert len(album.entries) == MAX_PICTURES and album.row("3", lambda: None) == 3  # type: ignore[arg-type, return-value]
    assert album.row("new", lambda: None) is None  # type: ignore[arg-type, return-value]


def test_outlines_of_the_sample_set(nuclei: Path) -> None:
    truth = read_annotations(nuclei / "annotations" / "val.json", [])
    paths = [svg_path(rle, 2.0, 0.5) for rle in truth.rles[:300]]
    assert all(paths) and np.mean([len(path) for path in paths]) < 200
