"""Reads and checks the ground truth of a COCO evaluation.

Both evaluators trust their input, and give a wrong number or a bare assertion where it is wrong.
Everything is checked here once, so that both get clean records: images and categories numbered by
rank (which keeps their order, hence the order of equal scores) and annotations numbered from 1.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from pycocotools import mask as mask_utils

from resdet.errors import UserError
from resdet.files.json import collector_paused, read_json, some
from resdet.files.rle import Rle, to_rle

ImageId = int | str
BOX_RULE = "must be [x, y, width, height] in pixels: four finite numbers, no negative size"


@dataclass
class GroundTruth:
    """The objects to be found, checked; made once and used for any number of evaluations."""

    source: str
    """File name, or "ground truth" for a dict; for messages."""
    image_rank: dict[ImageId, int]
    """Original image id to its rank 1..N in sorted order."""
    sizes: dict[int, tuple[int, int]]
    """Image rank to (height, width) in pixels, for the images that state it."""
    category_rank: dict[int, int]
    """Original category id to its rank 1..K in sorted order."""
    class_names: list[str]
    """K names by rank."""
    annotations: list[dict[str, Any]]
    """Records with id 1..A, ranks as image_id and category_id, bbox xywh pixels, area, iscrowd."""
    segmentations: list[Any]
    """A polygons or RLE as given, None where there is no mask."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was repaired or left out."""
    _rles: list[Rle] | None = field(default=None, repr=False)

    @property
    def has_masks(self) -> bool:
        return any(self.segmentations)

    def rles(self) -> list[Rle]:
        """A compressed RLE for each annotation, computed at the first call.

        Raises UserError where a polygon's image has no size, or a mask cannot be read.
        """
        if self._rles is None:
            self._rles = [
                self._rle(annotation, segmentation)
                for annotation, segmentation in zip(
                    self.annotations, self.segmentations, strict=True
                )
            ]
        return self._rles

    def _rle(self, annotation: dict[str, Any], segmentation: Any) -> Rle:
        size = self.sizes.get(annotation["image_id"])
        item = f"{self.source}: annotation number {annotation['id']}"
        return to_rle(segmentation or [], size, item)


@collector_paused()
def prepare_ground_truth(ground_truth: str | Path | dict[str, Any]) -> GroundTruth:
    """Check a COCO annotation file or dict, which is left unchanged.

    Missing `area` becomes width × height and missing `iscrowd` 0; ids that are 0, missing or
    duplicated are renumbered: both evaluators take a match with id 0 for no match. Each of these
    is a note. Raises UserError for what cannot be repaired.
    """
    if isinstance(ground_truth, dict):
        data: Any = ground_truth
        source = "ground truth"
    else:
        data = read_json(ground_truth, "COCO annotations")
        source = str(ground_truth)
    _check_shape(data, source)
    image_rank = _image_ranks(data["images"], source)
    sizes = {
        image_rank[image["id"]]: _size(image, source)
        for image in data["images"]
        if image.get("height") and image.get("width")
    }
    names = _category_names(data["categories"], source)
    ranks = {category: rank for rank, category in enumerate(names, start=1)}
    truth = GroundTruth(source, image_rank, sizes, ranks, list(names.values()), [], [])
    _add_annotations(truth, data["annotations"])
    return truth


def _size(image: dict[str, Any], source: str) -> tuple[int, int]:
    try:
        return int(image["height"]), int(image["width"])
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{source}: image {image['id']!r} has height {image['height']!r} and width "
            f"{image['width']!r}, not whole numbers of pixels"
        ) from None


def _category_names(categories: list[dict[str, Any]], source: str) -> dict[int, str]:
    """Category id to name, by id."""
    ids = [category.get("id") for category in categories]
    if not ids or not all(isinstance(category, int) for category in ids):
        raise UserError(f"{source}: categories need integer ids; it has {some(ids)}")
    repeated = [category for category, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(f"{source}: category ids given more than once: {some(repeated)}")
    by_id = sorted(categories, key=lambda category: category["id"])
    return {c["id"]: str(c.get("name", c["id"])) for c in by_id}


def _check_shape(data: Any, source: str) -> None:
    if isinstance(data, list):
        raise UserError(
            f"{source}: this is a list, as detections are; ground truth is an object with images, "
            "annotations and categories. Were the two files swapped?"
        )
    missing = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(data, dict) or not isinstance(data.get(key), list)
    ]
    if missing:
        raise UserError(f"{source}: not a COCO annotation file: it has no {', '.join(missing)}")
    for key in ("images", "annotations", "categories"):
        for index, entry in enumerate(data[key]):
            if not isinstance(entry, dict):
                raise UserError(f"{source}: {key}[{index}] is {entry!r:.60}, not an object")
    if not data["images"]:
        raise UserError(f"{source}: it lists no images, so there is nothing to evaluate")


def _image_ranks(images: list[dict[str, Any]], source: str) -> dict[ImageId, int]:
    if any("id" not in image for image in images):
        raise UserError(f"{source}: an image has no id")
    ids = [image["id"] for image in images]
    check_ids(ids, f"{source}: images", "id")
    repeated = [image for image, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(f"{source}: image ids given more than once: {some(repeated)}")
    # By number where all are numbers, as both evaluators sort; else as text.
    as_text = any(isinstance(image, str) for image in ids)
    return {image: rank for rank, image in enumerate(sorted(ids, key=str if as_text else None), 1)}


def check_ids(ids: Sequence[Any], items: str, key: str) -> None:
    """UserError for the first id that is neither a number nor text."""
    if set(map(type, ids)) <= {int, float, str}:
        return
    for index, value in enumerate(ids):
        if not isinstance(value, int | float | str):
            raise UserError(f"{items}[{index}] has {key} {value!r:.60}, not a number or text")


def _add_annotations(truth: GroundTruth, annotations: list[dict[str, Any]]) -> None:
    """Fill in the annotations, count what was repaired, and note it."""
    found: Counter[str] = Counter()
    strange: set[Any] = set()
    seen: set[Any] = set()
    for index, source in enumerate(annotations):
        rank, item = len(truth.annotations) + 1, f"{truth.source}: annotation {index}"
        try:
            image = truth.image_rank.get(source["image_id"])
            category = truth.category_rank.get(source["category_id"])
        except KeyError as key:
            raise UserError(f"{item} (id {source.get('id')}) has no {key}") from None
        except TypeError:
            raise UserError(
                f"{item} (id {source.get('id')}): image_id and category_id must be numbers or text"
            ) from None
        if image is None:
            found["image"] += 1
            continue
        if category is None:
            found["category"] += 1
            strange.add(source["category_id"])
            continue
        original = source.get("id")
        if not isinstance(original, int | float | str):
            original = None
        found["zero"] += original == 0 and original is not None
        found["no_id"] += original is None
        found["repeated"] += original is not None and original in seen
        seen.add(original)
        segmentation = source.get("segmentation") or None
        box = source.get("bbox") or None
        if box is None and segmentation is not None:
            found["bbox"] += 1
            box = mask_utils.toBbox(to_rle(segmentation, truth.sizes.get(image), item)).tolist()
        if not is_box(box):
            raise UserError(f"{item} (id {original}): bbox {box} {BOX_RULE}")
        area = source.get("area")
        if not isinstance(area, int | float) or not math.isfinite(area):
            found["area"] += 1
            area = box[2] * box[3]
        found["iscrowd"] += "iscrowd" not in source
        crowd = source.get("iscrowd") or 0
        if crowd not in (0, 1):
            raise UserError(f"{item} (id {original}): iscrowd is {crowd!r:.60}, not 0 or 1")
        truth.annotations.append(
            {
                "id": rank,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
        )
        truth.segmentations.append(segmentation)
    _note_repairs(truth, found, strange)


def is_box(box: Any) -> TypeGuard[list[float]]:
    """Whether this is a finite xywh box."""
    try:
        return len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) >= 0
    except TypeError:
        return False


def _note_repairs(truth: GroundTruth, found: Counter[str], strange: set[Any]) -> None:
    texts = {
        "zero": "{n} annotation with id 0 renumbered: the evaluators take a match with it for none",
        "no_id": "{n} annotations without id numbered",
        "repeated": "{n} annotations renumbered: another one has the same id",
        "bbox": "{n} annotations without bbox: taken from their masks",
        "area": "{n} annotations without a usable area: filled with box width × height",
        "iscrowd": "{n} annotations without iscrowd: taken as 0 (not a crowd)",
        "image": "{n} annotations left out: their image_id is not among the images",
        "category": f"{{n}} annotations left out: category ids {some(sorted(strange, key=str))} "
        "are not among the categories",
    }
    truth.notes += [
        f"{truth.source}: {text.format(n=found[key])}" for key, text in texts.items() if found[key]
    ]
