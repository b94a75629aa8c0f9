"""Pictures: what is coloured, what is left alone, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from resdet.errors import UserError
from resdet.ops.masks import paste_masks
from resdet.structures import Detections, Target
from resdet.viz import palette
from resdet.viz.draw import draw, draw_targets, grid, label_map


def detections(
    boxes: list[list[float]],
    size: tuple[int, int],
    *,
    masks: Tensor | None = None,
    labels: list[int] | None = None,
    names: tuple[str, ...] = ("cat", "dog"),
) -> Detections:
    n = len(boxes)
    return Detections(
        torch.tensor(boxes).reshape(n, 4),
        torch.linspace(0.9, 0.5, n),
        torch.tensor(labels or [0] * n, dtype=torch.int64),
        size,
        masks,
        list(names),
    )


def changed(picture: Image.Image, before: np.ndarray) -> np.ndarray:
    return (np.asarray(picture) != before).any(2)


def test_boxes_are_drawn_where_they_are_and_nowhere_else() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    picture = draw(image, detections([[50, 60, 150, 160]], (200, 300)))
    diff = changed(picture, image)
    assert picture.size == (300, 200)
    assert diff[60, 50:150].all() and diff[159, 50:150].all()
    assert diff[60:160, 50].all() and diff[60:160, 149].all()
    assert not diff[162:].any() and not diff[:40].any()
    assert not diff[80:150, 60:140].any()  # inside
    assert not image.any()  # the input is left alone


def test_masks_are_blended_inside_and_outlined() -> None:
    image = np.full((200, 300, 3), 100, np.uint8)
    circle = torch.linspace(-1, 1, 28).square()
    probs = ((circle[:, None] + circle[None]) < 1).float()[None]
    found = detections([[50, 60, 150, 160]], (200, 300), masks=probs, names=("cell",))
    picture = np.asarray(draw(image, found)).astype(int)
    mask = found.masks[0].numpy()
    center, rim = picture[110, 100], picture[110, np.flatnonzero(mask[110])[0]]
    color = palette.COLORS[0].astype(int)
    assert np.abs(center - (0.6 * 100 + 0.4 * color)).max() <= 1
    assert np.abs(rim - color).max() < np.abs(center - color).max()
    corner = picture[156, 146]  # in the box and outside the mask
    assert (corner == 100).all()


@pytest.mark.parametrize("paste", ["continuous", "rounded"])
def test_label_map_is_the_pasted_masks_small_over_large(paste: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(40, 2, generator=generator) * 80 - 5
    boxes = torch.cat([boxes, boxes + 3 + 30 * torch.rand(40, 2, generator=generator)], 1)
    probs = torch.rand(40, 14, 14, generator=generator)
    found = detections(boxes.tolist(), (90, 100), masks=probs)
    found.mask_paste = paste
    owner = label_map(found)
    pasted = paste_masks(probs, boxes, (90, 100), paste=paste).numpy()
    expected = np.zeros((90, 100), np.int32)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for i in areas.argsort(descending=True).tolist():
        expected[pasted[i]] = i + 1
    assert (owner == expected).all() and owner.max() > 0


def test_threshold_and_class_names() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    found = detections([[20, 30, 120, 130], [160, 170, 280, 290]], (300, 300), labels=[0, 1])
    both, one = draw(image, found), draw(image, found, score_thresh=0.7)
    assert changed(both, image)[200:].any() and not changed(one, image)[140:].any()
    renamed = draw(image, found, class_names=["a much longer name", "dog"])
    assert changed(renamed, np.asarray(both))[:40].any()
    assert not changed(draw(image, found, score_thresh=1.0), image).any()
    lowest = float(found.scores.min())  # predict leaves out scores at the threshold
    assert not changed(draw(image, found, score_thresh=lowest), image)[140:].any()
    hostile = draw(image, found, class_names=["a\nb\x1b[1m", "\udcff"])
    assert changed(hostile, image).any()


def test_nothing_found_leaves_the_image() -> None:
    image = np.full((40, 50, 3), 7, np.uint8)
    for masks in (None, torch.zeros(0, 28, 28)):
        found = detections([], (40, 50), masks=masks, names=("one",))
        assert not changed(draw(image, found), image).any()


def test_tiny_objects_of_one_class_keep_their_pixels(nuclei: Path) -> None:
    """On a 256 × 256 image with many nuclei, nothing outside the masks is painted."""
    truth = json.loads((nuclei / "annotations" / "val.json").read_text())
    counts = {image["id"]: 0 for image in truth["images"]}
    for annotation in truth["annotations"]:
        counts[annotation["image_id"]] += 1
    busiest = max(counts, key=lambda key: counts[key])
    entry = next(image for image in truth["images"] if image["id"] == busiest)
    boxes = [
        [x, y, x + w, y + h]
        for x, y, w, h in (a["bbox"] for a in truth["annotations"] if a["image_id"] == busiest)
    ]
    path = nuclei / "images" / entry["file_name"]
    size = (entry["height"], entry["width"])
    found = detections(boxes, size, masks=torch.ones(len(boxes), 28, 28), names=("nucleus",))
    before = np.asarray(Image.open(path).convert("RGB"))
    diff = changed(draw(path, found), before)
    covered = found.masks.any(0).numpy()
    assert len(boxes) > 30
    assert not diff[~covered].any()
    assert diff[covered].mean() > 0.9


def test_extreme_boxes_do_not_fail() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    boxes = [[-50.0, -50, 200, 200], [10, 10, 10, 30], [79.5, 59.5, 80, 60], [90, 90, 95, 95]]
    for masks in (None, torch.ones(4, 28, 28)):
        draw(image, detections(boxes, (60, 80), masks=masks))
    draw(np.zeros((1, 1, 3), np.uint8), detections([[0, 0, 1, 1]], (1, 1)))
    draw(image, detections([[5, 5, 40, 40]], (60, 80), labels=[9]))  # a label without a name


def test_another_image_is_refused() -> None:
    found = detections([[1, 1, 5, 5]], (60, 80))
    with pytest.raises(UserError, match="80×60 pixels, this one has 60×80"):
        draw(np.zeros((80, 60, 3), np.uint8), found)


def test_targets_of_a_training_batch() -> None:
    image = torch.zeros(3, 96, 128, dtype=torch.uint8)
    masks = torch.zeros(1, 112, 112, dtype=torch.uint8)
    masks[:, :56] = 1  # the upper half of the object
    target = Target(torch.tensor([[20.0, 40, 100, 80]]), torch.tensor([1]), masks, 0, 1)
    picture = np.asarray(draw_targets(image, target, ["cat", "dog"]))
    assert picture.shape == (96, 128, 3)
    assert picture[55, 60].any() and not picture[65:78, 60].any()
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None, 0, 1)
    assert not np.asarray(draw_targets(image, empty, ["cat"])).any()


def test_grid_centres_and_shrinks() -> None:
    sheet = grid([Image.new("RGB", (40, 20), "red"), Image.new("RGB", (20, 20), "blue")])
    assert sheet.size == (84, 20)
    pixels = np.asarray(sheet)
    assert (pixels[10, 5] == (255, 0, 0)).all() and (pixels[10, 64] == (0, 0, 255)).all()
    assert grid([Image.new("RGB", (400, 200))] * 5, max_side=100).size == (308, 104)
    assert grid([Image.new("RGB", (10, 10))] * 3, columns=1).size == (10, 38)
    with pytest.raises(ValueError, match="no images"):
        grid([])


def test_neighbours_have_different_colours() -> None:
    xs, ys = np.meshgrid(np.arange(15) * 10.0, np.arange(15) * 10.0)
    boxes = np.stack([xs, ys, xs + 9, ys + 9], -1).reshape(-1, 4)
    colors = palette.by_instance(boxes, margin=2).reshape(15, 15, 3)
    assert (colors[1:] != colors[:-1]).any(-1).all()
    assert (colors[:, 1:] != colors[:, :-1]).any(-1).all()
    assert len(np.unique(palette.COLORS, axis=0)) == len(palette.COLORS)


@pytest.mark.parametrize("matrix", ["protan", "deutan"])
def test_colours_differ_without_red_or_green_cones(matrix: str) -> None:
    """Any two are apart by a visible step in the linear dichromat simulation of Viénot (1999)."""
    simulated = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }[matrix]
    linear = (palette.COLORS / 255.0) ** 2.2
    seen = np.clip(linear @ np.array(simulated).T, 0, 1) ** (1 / 2.2) * 255
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)
    assert distances[~np.eye(len(seen), dtype=bool)].min() > 19


def test_strips_of_rows_draw_what_the_whole_image_does(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (500, 130, 3)).astype(np.uint8)
    boxes = [[5, 5, 120, 490], [30, 100, 90, 300], [40, 250, 128, 499]]
    found = detections(boxes, (500, 130), masks=torch.rand(3, 14, 14))
    whole = np.asarray(draw(image, found))
    monkeypatch.setattr("resdet.viz.draw.STRIP_PIXELS", 130 * 7)
    assert (np.asarray(draw(image, found)) == whole).all()
