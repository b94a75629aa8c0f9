"""Reads and checks the detections of a COCO evaluation.

A results file has 500,000 records. They are parsed and checked by type at once, then as arrays;
only if something is wrong are they examined one by one, to report the record.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from resdet.data.detection.readers.coco_segmentation import is_missing
from resdet.data.detection.table import AnnotationTable
from resdet.data.ids import IdRows, as_id
from resdet.errors import UserError
from resdet.files.json import plain_number, shown, some, to_numbers
from resdet.files.records import read_records
from resdet.files.rle import Rle, measure_codes, to_rle

BOX_RULE = "must be [x, y, width, height] in pixels: four finite numbers, no negative size"
RECORD = "objects {image_id, category_id, bbox, score, segmentation}"
IOU_TYPES = ("bbox", "segm")

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass
class DetectionTable:
    """N checked detections as arrays."""

    images: Ints
    """(N,) rows of the ground truth's images."""
    labels: Ints
    """(N,) labels of the ground truth."""
    scores: Floats
    """(N,) finite."""
    boxes: Floats
    """(N, 4) xywh pixels; 0 where masks alone were asked for."""
    rles: list[Rle] | None = None
    """N compressed RLEs of their images' sizes; None where boxes alone were asked for."""
    mask_areas: Ints | None = None
    """(N,) px² of the masks."""
    notes: list[str] = field(default_factory=list)
    """Sentences on what was converted or left out."""

    def check(self, truth: AnnotationTable, source: str) -> None:
        """UserError for scores that are not finite, and for malformed boxes."""
        if np.isfinite(self.scores.sum() + self.boxes.sum()) and not (self.boxes[:, 2:] < 0).any():
            return
        scores, boxes = np.isfinite(self.scores), np.isfinite(self.boxes).all(axis=1)
        for row in np.flatnonzero(~scores)[:1].tolist():
            image = truth.image_ids[int(self.images[row])]
            raise UserError(
                f"{source}: {int((~scores).sum())} detections have a score that is not finite "
                f"(such as {self.scores[row]} on image {image!r}); did training diverge?"
            )
        for row in np.flatnonzero(~boxes | (self.boxes[:, 2:] < 0).any(axis=1))[:1].tolist():
            image = truth.image_ids[int(self.images[row])]
            box = self.boxes[row].tolist()
            raise UserError(f"{source}: detection {row} on image {image!r}: bbox {box} {BOX_RULE}")

    def areas(self, iou_type: str) -> NDArray[Any]:
        """(N,) px², by which an unmatched detection counts for a size.

        For masks it is the mask's, as for records without a box in pycocotools, and as Detectron2
        does it: with the box's area, sizes would not mean the same on both sides.
        """
        if iou_type == "bbox":
            return self.boxes[:, 2:].prod(axis=1)
        assert self.mask_areas is not None, "masks were not read"
        return self.mask_areas

    def select(self, rows: Ints) -> "DetectionTable":
        """The detections `rows`, in that order."""
        return DetectionTable(
            self.images[rows],
            self.labels[rows],
            self.scores[rows],
            self.boxes[rows],
            None if self.rles is None else [self.rles[row] for row in rows.tolist()],
            None if self.mask_areas is None else self.mask_areas[rows],
            self.notes,
        )

    def records(self, truth: AnnotationTable) -> list[dict[str, Any]]:
        """COCO result records with the ids of the annotation file."""
        ids = truth.image_ids.tolist()
        columns = [self.images.tolist(), self.labels.tolist(), self.boxes.tolist()]
        records: list[dict[str, Any]] = [
            {
                "image_id": ids[image],
                "category_id": truth.category_ids[label],
                "bbox": box,
                "score": score,
            }
            for image, label, box, score in zip(*columns, self.scores.tolist(), strict=True)
        ]
        for record, rle in zip(records, self.rles or [], strict=False):
            code = rle["counts"]
            code = code.decode() if isinstance(code, bytes) else code
            record["segmentation"] = {"size": list(rle["size"]), "counts": code}
        return records


class _Mask(TypedDict):
    size: tuple[int, int]
    counts: str


class _Record(msgspec.Struct, gc=False):
    """A result record as nearly all are; others are converted to it one by one."""

    image_id: int | str
    category_id: int | str
    score: float
    bbox: tuple[float, float, float, float] | None = None
    segmentation: _Mask | None = None


def read_detections(
    detections: str | Path | Sequence[dict[str, Any]],
    truth: AnnotationTable,
    iou_types: Sequence[str] | None = None,
) -> tuple[DetectionTable, tuple[str, ...]]:
    """Read COCO result records, or a file of them, and check them against the ground truth.

    Returns them with the IoU types that can be evaluated: those given or, for None, bbox, and segm
    where both sides have masks. Records of categories that the ground truth lacks are left out with
    a note. Raises UserError for images that it lacks, for records without a needed key, for scores,
    boxes or masks that are malformed, and where no record has a known category.
    """
    records, source = _parse(detections)
    if iou_types is None:
        masks = map(attrgetter("segmentation"), records)
        has_masks = truth.has_masks and not any(map(is_missing, masks))
        iou_types = IOU_TYPES if has_masks else ("bbox",)
    notes: list[str] = []
    if not records:
        notes.append(f"{source}: no detections at all: every number with objects is 0")
    count = len(records)
    images = _find_images(records, truth, source, notes)
    known_labels = {category: label for label, category in enumerate(truth.category_ids)}
    labels = _find_rows("category", known_labels, records, source, notes)
    if count and labels.min() < 0:
        notes.append(_note_unknown(records, labels, truth, source))
        known = np.flatnonzero(labels >= 0)
        records = [records[row] for row in known.tolist()]
        images, labels, count = images[known], labels[known], len(known)
    scores = np.fromiter(map(attrgetter("score"), records), np.float64, count)
    table = DetectionTable(images, labels, scores, np.zeros((count, 4)), notes=notes)
    if "segm" in iou_types:
        table.rles, table.mask_areas = _read_masks(records, images, truth, source)
    if "bbox" in iou_types:
        table.boxes = _read_boxes(records, images, truth, source, notes)
    table.check(truth, source)
    return table, tuple(iou_types)


def _parse(detections: str | Path | Sequence[dict[str, Any]]) -> tuple[list[_Record], str]:
    """The records, and the name of their source for messages."""
    if not isinstance(detections, str | Path):
        return _convert(_check_records(detections, "detections"), "detections"), "detections"
    path, source = Path(detections), str(detections)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[_Record]), source
    except (OSError, ValueError, RecursionError):
        pass  # the slower reader reports the fault, and accepts JSON that is not strict
    records = read_records(path, "detections in COCO result format")
    return _convert(_check_records(records, source), source), source


def _check_records(records: Any, source: str) -> Sequence[dict[str, Any]]:
    """The records; UserError for what is not a list of objects."""
    if not isinstance(records, (list, tuple)):
        raise UserError(f"{source}: detections are a list of {RECORD}; {_no_list(records)}")
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(
                f"{source}[{row}] is {shown(record)}; detections are a list of {RECORD}"
            )
    return records


def _no_list(content: Any) -> str:
    """What to do about a file of something else."""
    if not isinstance(content, dict):
        return f"this is {shown(content)}"
    for key, value in content.items():
        first = value[0] if isinstance(value, list) and value else None
        if isinstance(first, dict) and {"score", "bbox"} <= set(first):
            return f"write the list in its {shown(key)} alone, in one list for all images"
    if {"images", "annotations"} <= set(content):
        return "this is an object with images and annotations: were the two files swapped?"
    return f"this is an object with {some(content, 4)}"


def _convert(records: Sequence[dict[str, Any]], source: str) -> list[_Record]:
    """Records of other types than `_Record` has keep their boxes and masks as they are."""
    try:
        return msgspec.convert(records, list[_Record])
    except (msgspec.ValidationError, UnicodeError):
        pass
    for key in ("image_id", "category_id", "score"):
        missing = [row for row, record in enumerate(records) if key not in record]
        if missing:
            raise UserError(
                f"{source}: {len(missing)} detections have no {key}: {some(missing)}; the first of "
                f"them has {some(records[missing[0]])}, and needs image_id, category_id and score"
            )
    ids: dict[str, list[Any]] = {"image_id": [], "category_id": []}
    scores = []
    for row, record in enumerate(records):
        for key, values in ids.items():
            value = as_id(record[key])
            if value is None:
                raise UserError(
                    f"{source}[{row}] has {key} {shown(record[key])}, not a whole number or text"
                )
            values.append(value)
        score = record["score"]
        number = score if isinstance(score, str) else plain_number(score)
        try:
            scores.append(float(number))  # type: ignore[arg-type]  # None raises TypeError
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"{source}: detection {row} has score {shown(score)}; give a number"
            ) from None
    return [
        _Record(image, category, score, record.get("bbox"), record.get("segmentation"))
        for record, image, category, score in zip(records, *ids.values(), scores, strict=True)
    ]


def _find_rows(
    what: str,
    row_of: Mapping[Any, int],
    records: Sequence[_Record],
    source: str,
    notes: list[str],
) -> Ints:
    """(N,) rows of the records' ids of an image or category; -1 for those that are not known."""
    ids = list(map(attrgetter(f"{what}_id"), records))
    rows, other = IdRows(row_of).find(ids)
    if other.any():
        some_ids = some(dict.fromkeys(ids[row] for row in np.flatnonzero(other)), 2)
        notes.append(f"{source}: {what} ids matched as numbers ({some_ids})")
    return rows


def _find_images(
    records: Sequence[_Record], truth: AnnotationTable, source: str, notes: list[str]
) -> Ints:
    """(N,) rows; UserError for images that the ground truth lacks."""
    row_of = {image: row for row, image in enumerate(truth.image_ids.tolist())}
    rows = _find_rows("image", row_of, records, source, notes)
    lost = {records[row].image_id for row in np.flatnonzero(rows < 0).tolist()}
    if lost:
        names = (truth.file_names[row] for row in range(len(truth.image_ids)))
        remedy = _name_for_id(lost, dict(zip(names, row_of, strict=True)), "file names") or (
            "give the annotations these detections belong to, or drop the detections of other "
            "images"
        )
        raise UserError(
            f"{source}: {len(lost)} image ids are not in {truth.source}: "
            f"{some(sorted(lost, key=shown))} (it has {some(row_of, 3)}); {remedy}"
        )
    return rows


def _name_for_id(ids: Iterable[Any], id_of: Mapping[str, Any], what: str) -> str:
    """A remedy where names, or file names without a suffix, are in place of ids; else empty."""
    stems = {name.rpartition(".")[0]: each for name, each in id_of.items() if "." in name}
    id_of = {**stems, **id_of}
    named = sorted(each for each in ids if isinstance(each, str) and each in id_of)
    if not named:
        return ""
    return f"these are {what}: write ids instead, such as {shown(id_of[named[0]])} for {named[0]!r}"


def _note_unknown(
    records: Sequence[_Record], labels: Ints, truth: AnnotationTable, source: str
) -> str:
    """A note on the categories that the ground truth lacks; UserError where there are no others."""
    unknown = [records[row].category_id for row in np.flatnonzero(labels < 0).tolist()]
    ids = sorted(set(unknown), key=shown)
    known = truth.category_ids
    text = f"{source}: category ids {some(ids)} are not in {truth.source} (it has {some(known)})"
    names = _name_for_id(ids, dict(zip(truth.class_names, known, strict=True)), "class names")
    if names:
        text += f"; {names}"
    elif 0 in ids and 0 not in known:
        text += "; an id 0 suggests labels counted from 0: write the original category ids"
    if len(unknown) == len(records):
        raise UserError(f"{text}; no detection has a known category, so nothing can be evaluated")
    return f"{text}; {len(unknown)} of {len(records)} detections left out"


def _read_masks(
    records: Sequence[_Record], images: Ints, truth: AnnotationTable, source: str
) -> tuple[list[Rle], Ints]:
    """RLEs whose code and size fit their images, and their areas in pixels."""
    masks: list[Any] = list(map(attrgetter("segmentation"), records))
    missing = [row for row, mask in enumerate(masks) if mask is None]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(masks)} detections have no segmentation (number "
            f"{some(missing)}), which kind segm needs; evaluate kinds=bbox"
        )
    sizes = truth.sizes[images]
    areas = _measure(masks, sizes)
    for row in np.flatnonzero(areas < 0).tolist():
        height, width = sizes[row].tolist()
        size = (height, width) if height and width else None
        masks[row] = to_rle(masks[row], size, f"{source}: detection {row}")
        areas[row] = mask_utils.area(masks[row])
    return masks, areas


def _measure(masks: list[Any], sizes: NDArray[np.int32]) -> Ints:
    """(N,) areas in pixels; -1 for what is not a compressed RLE of its image's size (N, 2)."""
    try:
        codes = "".join(map(itemgetter("counts"), masks)).encode("ascii")
        own = np.fromiter(chain.from_iterable(map(itemgetter("size"), masks)), np.int64)
        own = own.reshape(len(masks), 2)
        lengths = np.fromiter(map(len, map(itemgetter("counts"), masks)), np.int64, len(masks))
    except (TypeError, KeyError, ValueError, OverflowError):
        return np.full(len(masks), -1)  # polygons, or counts in a list
    areas = measure_codes(np.frombuffer(codes, np.uint8), lengths, own.prod(axis=1))
    areas[(own != sizes).any(axis=1) | (own < 1).any(axis=1)] = -1
    return areas


def _read_boxes(
    records: Sequence[_Record],
    images: Ints,
    truth: AnnotationTable,
    source: str,
    notes: list[str],
) -> Floats:
    """(N, 4) xywh; taken from the mask where a record has no box."""
    boxes: list[Any] = list(map(attrgetter("bbox"), records))
    derived = 0
    for row, box in enumerate(boxes):
        if type(box) is tuple:  # checked by its type
            continue
        mask = records[row].segmentation
        item = f"{source}: detection {row} on image {records[row].image_id!r}"
        if is_missing(box) and not is_missing(mask):
            height, width = truth.sizes[int(images[row])].tolist()
            rle = to_rle(mask, (height, width) if height and width else None, item)
            boxes[row] = mask_utils.toBbox(rle).tolist()
            derived += 1
            continue
        numbers = to_numbers(box)
        if len(numbers) != 4 or min(numbers[2:]) < 0:
            raise UserError(f"{item}: bbox {shown(box)} {BOX_RULE}")
        boxes[row] = numbers
    if derived:
        notes.append(f"{source}: {derived} detections without bbox: taken from their masks")
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)
