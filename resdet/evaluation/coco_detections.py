"""Reads and checks the detections of a COCO evaluation.

A results file has 500,000 records. What is right in all of them is found so by column, in C; only
where something may be wrong are they looked at one by one, for the words of the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from resdet.errors import UserError
from resdet.evaluation.coco_input import BOX_RULE, GroundTruth, check_ids, is_box
from resdet.files.json import read_json, some
from resdet.files.rle import Rle, are_compressed, to_rle


@dataclass
class DetectionTable:
    """Checked detections as arrays; N of them, in the order given."""

    images: np.ndarray
    """(N,) int64 image ranks."""
    categories: np.ndarray
    """(N,) int64 category ranks."""
    scores: np.ndarray
    """(N,) float64, finite."""
    boxes: np.ndarray
    """(N, 4) float64 xywh pixels; 0 where masks alone were asked for."""
    rles: list[Rle] | None
    """N compressed RLEs; None where boxes alone were asked for."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was converted or left out."""


def prepare_detections(
    records: Sequence[dict[str, Any]],
    truth: GroundTruth,
    *,
    kinds: Sequence[str],
    source: str = "detections",
) -> DetectionTable:
    """Check COCO result records against the ground truth; `source` names them in messages.

    Records of categories that the ground truth lacks are left out with a note, as both evaluators
    do silently. Raises UserError for images that it lacks, for records without a needed key, for
    scores or boxes that are not finite, and where no record has a known category.
    """
    image_ids = _column(records, "image_id", source)
    check_ids(image_ids, source, "image_id")
    category_ids = _column(records, "category_id", source)
    check_ids(category_ids, source, "category_id")
    values = _column(records, "score", source)
    notes: list[str] = []
    images = _ranks_of_images(image_ids, truth, source, notes)
    ranks = map(truth.category_rank.get, category_ids, repeat(0))
    categories = np.fromiter(ranks, dtype=np.int64, count=len(records))
    if len(records) and not categories.all():
        notes.append(_note_unknown(records, categories, truth, source))
        kept = np.flatnonzero(categories)
        records = [records[i] for i in kept.tolist()]
        values = [values[i] for i in kept.tolist()]
        images, categories = images[kept], categories[kept]
    try:
        scores = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: a score is not a number: {error}") from None
    wrong = np.flatnonzero(~np.isfinite(scores)).tolist()
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} detections have a score that is not finite (such as "
            f"{scores[wrong[0]]} on image {records[wrong[0]]['image_id']!r}); did training diverge?"
        )
    rles = _detection_rles(records, images, truth, source) if "segm" in kinds else None
    boxes = np.zeros((len(records), 4))
    if "bbox" in kinds:
        boxes = _boxes(records, images, truth, source, notes)
    return DetectionTable(images, categories, scores, boxes, rles, notes)


def read_detections(
    detections: str | Path | Sequence[dict[str, Any]],
) -> tuple[Sequence[dict[str, Any]], str]:
    """The result records, and the name of their source for messages."""
    if not isinstance(detections, str | Path):
        return detections, "detections"
    records = read_json(detections, "detections in COCO result format")
    if not isinstance(records, list) or not set(map(type, records)) <= {dict}:
        raise UserError(
            f"{detections}: detections are a list of objects {{image_id, category_id, bbox, score, "
            "segmentation}; were the two files swapped?"
        )
    return records, str(detections)


def _column(records: Sequence[dict[str, Any]], key: str, source: str) -> list[Any]:
    try:
        return list(map(itemgetter(key), records))
    except (KeyError, TypeError):
        missing = [i for i, record in enumerate(records) if key not in record]
    raise UserError(f"{source}: {len(missing)} detections have no {key}: {some(missing)}")


def _ranks_of_images(
    ids: Sequence[Any], truth: GroundTruth, source: str, notes: list[str]
) -> np.ndarray:
    """(N,) int64 ranks; ids that differ only in being text or number are taken as equal."""
    unknown = set(ids) - truth.image_rank.keys()
    ranks = truth.image_rank
    if unknown:
        as_text = {str(image): rank for image, rank in truth.image_rank.items()}
        lost = sorted((i for i in unknown if str(i) not in as_text), key=str)
        if lost:
            raise UserError(
                f"{source}: {len(lost)} image ids are not in {truth.source}: {some(lost)} (it has "
                f"{some(truth.image_rank, 3)}); give the annotations these detections belong to, "
                "or drop the detections of other images"
            )
        notes.append(f"{source}: image ids matched as text ({some(unknown, 2)})")
        ranks = {**truth.image_rank, **{image: as_text[str(image)] for image in unknown}}
    return np.fromiter(map(ranks.__getitem__, ids), dtype=np.int64, count=len(ids))


def _note_unknown(
    records: Sequence[dict[str, Any]], categories: np.ndarray, truth: GroundTruth, source: str
) -> str:
    unknown = [records[i]["category_id"] for i in np.flatnonzero(categories == 0).tolist()]
    ids = sorted(set(unknown), key=str)
    known = list(truth.category_rank)
    text = f"{source}: category ids {some(ids)} are not in {truth.source} (it has {some(known)})"
    if 0 in ids and 0 not in truth.category_rank:
        text += "; an id 0 suggests labels counted from 0: write the original category ids"
    if len(unknown) == len(records):
        raise UserError(f"{text}; no detection has a known category, so nothing can be evaluated")
    return f"{text}; {len(unknown)} of {len(records)} detections left out"


def _detection_rles(
    records: Sequence[dict[str, Any]], images: np.ndarray, truth: GroundTruth, source: str
) -> list[Rle]:
    segmentations: list[Any] = [record.get("segmentation") for record in records]
    missing = [i for i, segmentation in enumerate(segmentations) if segmentation is None]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(records)} detections have no segmentation (number "
            f"{some(missing)}), which kind segm needs; evaluate kinds=bbox"
        )
    sizes = {rank: list(size) for rank, size in truth.sizes.items()}
    if are_compressed(segmentations, list(map(sizes.get, images.tolist()))):
        return segmentations
    return [
        to_rle(segmentation, truth.sizes.get(image), f"{source}: detection {index}")
        for index, (segmentation, image) in enumerate(
            zip(segmentations, images.tolist(), strict=True)
        )
    ]


def _boxes(
    records: Sequence[dict[str, Any]],
    images: np.ndarray,
    truth: GroundTruth,
    source: str,
    notes: list[str],
) -> np.ndarray:
    """(N, 4) float64 xywh; taken from the mask where a record has no box."""
    sound = _sound_boxes([record.get("bbox") for record in records])
    if sound is not None:
        return sound
    values = []
    derived = 0
    for index, record in enumerate(records):
        box = record.get("bbox") or None
        item = f"{source}: detection {index} on image {record['image_id']!r}"
        if box is None and record.get("segmentation"):
            rle = to_rle(record["segmentation"], truth.sizes.get(int(images[index])), item)
            box = mask_utils.toBbox(rle).tolist()
            derived += 1
        if not is_box(box):
            raise UserError(f"{item}: bbox {box} {BOX_RULE}")
        values.append(box)
    if derived:
        notes.append(f"{source}: {derived} detections without bbox: taken from their masks")
    return np.array(values, dtype=np.float64).reshape(-1, 4)


def _sound_boxes(boxes: list[Any]) -> np.ndarray | None:
    """(N, 4), or None where one may not be a list of four finite numbers with sizes from 0."""
    if set(map(type, boxes)) != {list} or set(map(len, boxes)) != {4}:
        return None
    if not set(map(type, chain.from_iterable(boxes))) <= {int, float}:
        return None
    try:
        values = np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
    except OverflowError:
        return None
    return values if np.isfinite(values).all() and (values[:, 2:] >= 0).all() else None
