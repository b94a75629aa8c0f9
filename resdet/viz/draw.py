"""Detections and targets as pictures."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from resdet.errors import UserError, printable
from resdet.files.images import to_rgb
from resdet.structures import Classification, Detections, Target
from resdet.viz import palette

MASK_OPACITY = 0.4
CONTOUR_OPACITY = 0.9
STRIP_PIXELS = 1 << 20
"""Pixels that are blended at a time; the floats take some 60 bytes for each."""
# Side in pixels below which a box of the only class is drawn without its label.
TINY_SIDE = 40
MOST_LABELS = 1000
"""Only so many of the best detections get their label: of more, labels hide the picture."""
CAPTIONED_SIDE = 192
"""Images with a caption are enlarged towards this side in pixels."""
TINY_PICTURE, ENLARGED_SIDE = 64, 256
"""Classified pictures up to the first side in pixels are enlarged towards the second."""
MIN_WIDTH = 360
"""Least width in pixels of a classification's panel."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[float, float, float, float]


def draw(
    image: str | Path | Image.Image | np.ndarray,
    detections: Detections | Classification,
    *,
    score_thresh: float | None = None,
    class_names: Sequence[str] | None = None,
) -> Image.Image:
    """Draw the detections that score above `score_thresh` (None is 0), which `predict` keeps, on
    `image`; returns RGB of its size. A `Classification` is drawn as a panel of classes below it.

    Masks and their outlines are coloured by instance, boxes without masks by class, and what has
    track ids by these. Labels are "class score" after "#id"; `class_names` replaces those of the
    detections. If there is only one class and no id, small boxes have no label. `image` is a path,
    a Pillow image, or an (H, W, 3) uint8 RGB array.
    Raises UserError if the image has another size than the detections.
    """
    pixels, score_thresh = to_rgb(image), score_thresh or 0.0
    if not isinstance(detections, Detections):
        return draw_classification(pixels, detections.above(score_thresh))
    if pixels.shape[:2] != tuple(detections.image_size):
        height, width = detections.image_size
        raise UserError(
            f"the detections belong to an image of {width}×{height} pixels, this one has "
            f"{pixels.shape[1]}×{pixels.shape[0]}; give the image that they were made from"
        )
    shown = detections[detections.scores > score_thresh].cpu()
    names = list(class_names) if class_names is not None else shown.class_names
    labels = shown.labels.tolist()
    texts = [
        f"{_name(names, label)} {score:.2f}"
        for label, score in zip(labels, shown.scores.tolist(), strict=True)
    ]
    if shown.track_ids is not None:
        ids = shown.track_ids.tolist()
        texts = [f"#{track} {text}" for track, text in zip(ids, texts, strict=True)]
    return _render(pixels, shown, texts, len(names))


def draw_targets(
    image: Tensor, target: Target, class_names: Sequence[str] | None = None
) -> Image.Image:
    """A training image (3, H, W) uint8 RGB with its boxes and masks."""
    pixels = image.cpu().permute(1, 2, 0).contiguous().numpy()
    masks = None if target.masks is None else target.masks.cpu().float()
    objects = Detections(
        target.boxes.cpu(),
        torch.ones(len(target.labels)),
        target.labels.cpu(),
        image_size=(pixels.shape[0], pixels.shape[1]),
        mask_probs=masks,
        class_names=list(class_names or []),
    )
    return draw_objects(pixels, objects)


def draw_objects(pixels: np.ndarray, objects: Detections) -> Image.Image:
    """Annotated objects in their image (H, W, 3) uint8 RGB: as `draw`, without scores."""
    names = objects.class_names
    texts = [_name(names, label) for label in objects.labels.tolist()]
    return _render(pixels, objects, texts, len(names))


def draw_caption(pixels: np.ndarray, words: str) -> Image.Image:
    """An image (H, W, 3) uint8 RGB above a caption; small ones are enlarged."""
    picture = _enlarge(Image.fromarray(pixels), CAPTIONED_SIDE)
    font = ImageFont.load_default(12.0)
    canvas = Image.new("RGB", (picture.width, picture.height + 18), "white")
    canvas.paste(picture, (0, 0))
    words = _fit_text(words, font, picture.width - 4)
    ImageDraw.Draw(canvas).text((2, picture.height + 1), words, font=font, fill="black")
    return canvas


def draw_classification(pixels: np.ndarray, result: Classification) -> Image.Image:
    """`pixels` (H, W, 3) uint8 RGB above a panel with the names, bars and scores of the classes.

    Pictures of up to 64 pixels are enlarged by an integer factor, others keep their size; a narrow
    one is centred above a panel of 360 pixels.
    """
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if max(picture.size) <= TINY_PICTURE:
        picture = _enlarge(picture, ENLARGED_SIDE)
    width = max(picture.width, MIN_WIDTH)
    size = float(np.clip(width / 36, 13, 40))
    font = ImageFont.load_default(size)
    line = round(1.7 * size)
    rows = list(zip(result.names, result.labels.tolist(), result.scores.tolist(), strict=True))
    height = line * max(1, len(rows)) + line // 2
    canvas = Image.new("RGB", (width, picture.height + height), (24, 26, 30))
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    drawing = ImageDraw.Draw(canvas)
    for position, (name, label, score) in enumerate(rows):
        middle = picture.height + line // 4 + position * line + line / 2
        _draw_row(drawing, name, score, palette.by_class(np.array([label]))[0], middle, width, font)
    if not rows:
        place = (size, picture.height + line / 4 + line / 2)
        drawing.text(place, "no class above the threshold", "white", font, anchor="lm")
    return canvas


def _draw_row(
    drawing: ImageDraw.ImageDraw,
    name: str,
    score: float,
    color: np.ndarray,
    middle: float,
    width: int,
    font: Font,
) -> None:
    """Name, bar and score of one class, centred at height `middle`."""
    size = drawing.textbbox((0, 0), "100.0 %", font=font)[2]
    margin = size // 5
    left, right = round(0.5 * width), width - size - 2 * margin
    drawing.text(
        (margin, middle), _fit_text(name, font, left - 2 * margin), "white", font, anchor="lm"
    )
    half = size / 9
    drawing.rectangle((left, middle - half, right, middle + half), fill=(58, 62, 70))
    filled = left + score * (right - left)
    drawing.rectangle((left, middle - half, filled, middle + half), fill=_rgb(color))
    drawing.text((width - margin, middle), f"{100 * score:.1f} %", "white", font, anchor="rm")


def grid(
    images: Sequence[Image.Image], *, columns: int | None = None, max_side: int | None = None
) -> Image.Image:
    """Images in rows, about as many rows as columns, centred in equal cells.

    Images whose longer side is over `max_side` pixels are shrunk. Raises ValueError without images.
    """
    if not images:
        raise ValueError("grid of no images; give at least one")
    gap = 4
    cells = [shrink(image, max_side) for image in images]
    columns = min(columns or math.ceil(math.sqrt(len(cells))), len(cells))
    rows = math.ceil(len(cells) / columns)
    width = max(cell.width for cell in cells) + gap
    height = max(cell.height for cell in cells) + gap
    canvas = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for i, cell in enumerate(cells):
        x = i % columns * width + (width - gap - cell.width) // 2
        y = i // columns * height + (height - gap - cell.height) // 2
        canvas.paste(cell, (x, y))
    return canvas


def _enlarge(picture: Image.Image, side: int) -> Image.Image:
    """Enlarged pixel by pixel, by an integer factor, up to `side` pixels."""
    factor = max(1, side // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def _fit_text(text: str, font: Font, width: float) -> str:
    """The text, cut with … to at most `width` pixels."""
    text = printable(text)
    while text and font.getlength(text) > width:
        text = text.rstrip("…")[:-1].rstrip() + "…" if len(text) > 1 else ""
    return text


def shrink(image: Image.Image, max_side: int | None) -> Image.Image:
    """The image, smaller if its longer side is over `max_side` pixels."""
    scale = 1.0 if max_side is None else max_side / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _name(names: list[str], label: int) -> str:
    return printable(names[label]) if label < len(names) else f"class {label}"


def _render(
    pixels: np.ndarray, objects: Detections, texts: list[str], num_classes: int
) -> Image.Image:
    """`pixels` (H, W, 3) with the boxes of N objects, their `texts`, and their masks."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    line = max(1, round(side / 240))
    corners = objects.boxes.double().numpy()
    if objects.track_ids is not None:
        colors = palette.by_class(objects.track_ids.numpy())
    elif objects.has_masks:
        colors = palette.by_instance(corners, margin=2 * line)
    else:
        colors = palette.by_class(objects.labels.numpy())
    if objects.has_masks:
        pixels = _blend_masks(pixels, label_map(objects), colors, line)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    canvas = ImageDraw.Draw(picture)
    sides = (corners[:, 2:] - corners[:, :2]).min(1)
    is_plain = num_classes == 1 and objects.track_ids is None
    small = is_plain and len(corners) > 0 and float(np.median(sides)) < TINY_SIDE
    if not objects.has_masks or not small:
        frame = max(1, line // 2) if objects.has_masks else line
        # best last, so that it is on top
        for box, color in zip(corners[::-1].tolist(), colors[::-1], strict=True):
            x1, y1, x2, y2 = box
            canvas.rectangle(
                (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_rgb(color), width=frame
            )
    if not small:
        font = ImageFont.load_default(float(np.clip(side // 38, 11, 36)))
        best = slice(MOST_LABELS)
        _write_labels(canvas, (width, height), corners[best], texts[best], colors[best], font)
    return picture


def label_map(objects: Detections) -> np.ndarray:
    """(H, W) unsigned: which mask owns each pixel, counted from 1; 0 is none.

    Small objects cover large ones, so that a person on a horse stays visible.
    """
    boxes = objects.boxes
    owner = np.zeros(objects.image_size, dtype=np.min_scalar_type(len(objects)))
    order = (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True)
    masks = objects[order].mask_windows()
    for i, ((x1, y1, x2, y2), mask) in zip(order.tolist(), masks, strict=True):
        owner[y1:y2, x1:x2][mask.numpy()] = i + 1
    return owner


def _blend_masks(
    pixels: np.ndarray, owner: np.ndarray, colors: np.ndarray, line: int
) -> np.ndarray:
    """A copy with the pixels of each mask filled and outlined in its colour.

    In strips of rows, because the floats of a large image take several times its own memory.
    """
    table = np.concatenate([np.zeros((1, 3), np.float32), colors.astype(np.float32)])
    height, width = owner.shape
    blended = pixels.copy()
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        if not owner[top:bottom].any():
            continue
        # `line` more rows on both sides decide how far inside a pixel is
        first, last = max(0, top - line), min(height, bottom + line)
        near = owner[first:last].astype(np.int32)
        inner = np.ones(near.shape, dtype=bool)
        for _ in range(line):
            inner &= ~_differs_from_neighbours(np.where(inner, near, -1))
        own = slice(top - first, bottom - first)
        opacity = np.where(inner[own], MASK_OPACITY, CONTOUR_OPACITY).astype(np.float32)
        opacity[near[own] == 0] = 0
        share = opacity[..., None]
        mixed = pixels[top:bottom] * (1 - share) + table[near[own]] * share + 0.5
        blended[top:bottom] = mixed.astype(np.uint8)
    return blended


def _differs_from_neighbours(owner: np.ndarray) -> np.ndarray:
    """(H, W) bool: one of the four neighbours has another value."""
    edge = np.zeros(owner.shape, dtype=bool)
    rows, columns = owner[1:] != owner[:-1], owner[:, 1:] != owner[:, :-1]
    edge[1:] |= rows
    edge[:-1] |= rows
    edge[:, 1:] |= columns
    edge[:, :-1] |= columns
    return edge


def _write_labels(
    canvas: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: np.ndarray,
    texts: list[str],
    colors: np.ndarray,
    font: Font,
) -> None:
    """Texts in coloured plates at their boxes, best first.

    A plate takes a free place around its box. Without one, the label of a small box is left out and
    that of a large box is drawn over others.
    """
    taken: list[Rectangle] = []
    for box, text, color in zip(corners.tolist(), texts, colors, strict=True):
        left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
        plate = (right - left + 4, bottom - top + 4)
        places = _places(box, plate, size)
        free = [place for place in places if not any(_overlap(place, other) for other in taken)]
        is_small = box[2] - box[0] < plate[0] and box[3] - box[1] < 2 * plate[1]
        if not free and is_small:
            continue
        place = (free or places)[0]
        canvas.rectangle(place, fill=_rgb(color))
        canvas.text(
            (place[0] + 2 - left, place[1] + 2 - top),
            text,
            font=font,
            fill=palette.text_color(color),
        )
        taken.append(place)


def _places(box: list[float], plate: tuple[float, float], size: tuple[int, int]) -> list[Rectangle]:
    """Places for the plate of a box, moved into the image: above, inside, below."""
    x1, y1, x2, y2 = box
    wide, high = plate
    origins = [(x1, y1 - high), (x1, y1), (x2 - wide, y1 - high), (x1, y2), (x2 - wide, y2 - high)]
    places = []
    for x, y in origins:
        x = min(max(x, 0), max(0, size[0] - wide - 1))
        y = min(max(y, 0), max(0, size[1] - high - 1))
        places.append((x, y, x + wide, y + high))
    return places


def _overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rgb(color: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = color.tolist()
    return red, green, blue
