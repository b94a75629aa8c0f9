"""The predictions behind a run's eval.json, kept so that its report needs no second evaluation.

They are one npz file beside eval.json, `predictions.npz`: flat arrays without pickled objects, and
the config of the evaluation as JSON, by which the report finds the images and their annotations.
Everything is stored exactly: the report's numbers are those of eval.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.inclusive import PixelDetections
from resdet.files.findings import DataError
from resdet.files.npz import map_npz, write_npz
from resdet.files.rle import Rle, measure_codes

FILE = "predictions.npz"
VERSION = 1
AGAIN = "evaluate the run again"
THOUSANDTHS = 1000
"""Boxes are rounded to a thousandth of a pixel when they are evaluated."""
TOP = 5
"""Classes per image that are kept of a classifier."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Answers:
    """The predictions of a classifier for N images that could be read."""

    names: list[str]
    """N names of images, unique in the data set."""
    labels: Ints
    """(N,) true classes, 0..K-1."""
    top: Ints
    """(N, T) the best T = min(5, K) classes, best first."""
    top_scores: NDArray[np.float32]
    """(N, T) their share of the softmax."""
    own_scores: NDArray[np.float32]
    """(N,) that of the true class."""
    class_names: list[str]
    """K names."""


@dataclass(frozen=True)
class Stored:
    """The content of a file."""

    path: Path
    config: dict[str, Any]
    """The whole config of the evaluation, as plain values."""
    class_names: list[str]
    """K names by label, as in the data."""
    predictions: DetectionTable | PixelDetections | Answers
    image_ids: list[int | str]
    """N ids by row, of detectors; else empty."""
    num_objects: Ints
    """(N,) objects of each image in the ground truth; 0 for images that were left out."""
    kinds: list[str]
    """What was evaluated of COCO's: bbox, segm or both; else empty."""

    def truth(self, table: AnnotationTable) -> AnnotationTable:
        """The ground truth of the evaluation from a table of the same data: its images, and the
        objects of those that could be read. DataError where it is of other data."""
        objects = np.bincount(table.image_of, minlength=len(table.image_ids))
        if len(objects) > len(self.image_ids):
            own = set(self.image_ids)
            keep = np.array([image in own for image in table.image_ids])
            table, objects = table.select_images(keep), objects[keep]
        same = table.image_ids == self.image_ids and table.class_names == self.class_names
        gone = np.zeros(0, np.int64)
        if same:
            gone = np.flatnonzero((self.num_objects == 0) & (objects > 0))
            kept = np.delete(np.arange(len(objects)), gone)
            same = bool((self.num_objects[kept] == objects[kept]).all())
            same &= _masks_fit(self.predictions, table)
        if not same:
            raise DataError(
                f"{self.path}: its detections are of other images, objects or classes than "
                f"{table.source} has now; {AGAIN}"
            )
        return table.without_objects(gone.tolist()) if len(gone) else table


def _masks_fit(predictions: Any, table: AnnotationTable) -> bool:
    """Whether masks have the sizes of their images, which evaluators take for granted."""
    rles = getattr(predictions, "rles", None)
    if not rles:
        return True
    sizes = np.array([rle["size"] for rle in rles])
    return np.array_equal(sizes, table.sizes[predictions.images])


def store(
    folder: Path,
    predictions: Any,
    config: dict[str, Any],
    truth: AnnotationTable | None = None,
    kinds: Sequence[str] = (),
) -> Path | None:
    """Writes the file; returns its path, or None for predictions of a kind that is not kept, such
    as those of a user's own metric. WriteError where the disk refuses."""
    header: dict[str, Any] = {"version": VERSION, "config": config}
    if isinstance(predictions, Answers):
        header |= {"names": predictions.names, "class_names": predictions.class_names}
        arrays = _answer_arrays(predictions)
    elif isinstance(predictions, DetectionTable | PixelDetections) and truth is not None:
        if not truth.has_annotations:
            return None
        header |= {"image_ids": truth.image_ids.tolist(), "class_names": truth.class_names}
        header["kinds"] = list(kinds)
        arrays = _detection_arrays(predictions)
        objects = np.bincount(truth.image_of, minlength=len(truth.image_ids))
        arrays["num_objects"] = objects.astype(np.int32)
        if isinstance(predictions, PixelDetections):
            header["base"] = predictions.base
    else:
        return None
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    return write_npz(folder / FILE, arrays)


def _answer_arrays(answers: Answers) -> Arrays:
    return {
        "labels": answers.labels.astype(np.int32),
        "top": answers.top.astype(np.int32),
        "top_scores": answers.top_scores,
        "own_scores": answers.own_scores,
    }


def _detection_arrays(table: DetectionTable | PixelDetections) -> Arrays:
    boxes = table.boxes if isinstance(table, DetectionTable) else table.corners
    arrays: Arrays = {
        "images": table.images.astype(np.int32),
        "labels": table.labels.astype(np.int32),
        "scores": _if_exact(table.scores, table.scores.astype(np.float32)),
        "boxes": _if_exact(boxes, np.rint(boxes * THOUSANDTHS).astype(np.int32), THOUSANDTHS),
    }
    if isinstance(table, DetectionTable) and table.rles is not None:
        codes = [rle["counts"] for rle in table.rles]
        in_bytes = [code.encode() if isinstance(code, str) else code for code in codes]
        arrays["mask_lengths"] = np.fromiter(map(len, in_bytes), np.int32, len(in_bytes))
        arrays["masks"] = np.frombuffer(b"".join(in_bytes), np.uint8)
        arrays["mask_sizes"] = np.array([r["size"] for r in table.rles], np.int32).reshape(-1, 2)
    return arrays


def _if_exact(values: Floats, small: NDArray[Any], scale: int = 1) -> NDArray[Any]:
    """`small` where it is the same numbers, in units of 1 / `scale`; else the values."""
    return small if np.array_equal(small / np.float64(scale), values) else values


def read_stored(folder: Path) -> Stored:
    """The predictions in a run folder.

    Raises:
        DataError: there is no file, or it is damaged or of a later version; with the remedy.
    """
    path = folder / FILE
    arrays = map_npz(path, "the predictions of an evaluation")
    try:
        header = json.loads(arrays["header"].tobytes())
        version, config = header["version"], header["config"]
        if version != VERSION:
            raise DataError(f"{path}: is of version {version}, not {VERSION}; {AGAIN}")
        names = _texts(header["class_names"])
        if "names" in header:
            answers = _read_answers(arrays, _texts(header["names"]), names)
            return Stored(path, dict(config), names, answers, [], np.zeros(0, np.int64), [])
        ids = list(header["image_ids"])
        detections = _read_detections(arrays, len(ids), len(names), header.get("base"))
        objects = arrays["num_objects"].astype(np.int64)
        _require(objects.shape == (len(ids),))
        kinds = _texts(header["kinds"])
        return Stored(path, dict(config), names, detections, ids, objects, kinds)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error or 'wrong shapes'}); {AGAIN}") from None


def _texts(values: Any) -> list[str]:
    _require(isinstance(values, list) and all(isinstance(each, str) for each in values))
    return list(values)


def _require(is_sound: bool) -> None:
    if not is_sound:
        raise ValueError("its arrays do not agree")


def _read_answers(arrays: Arrays, files: list[str], class_names: list[str]) -> Answers:
    count = len(files)
    labels, top = (arrays[name].astype(np.int64) for name in ("labels", "top"))
    scores, own = (arrays[name].astype(np.float32) for name in ("top_scores", "own_scores"))
    width = min(TOP, len(class_names))
    _require(labels.shape == own.shape == (count,) and top.shape == scores.shape == (count, width))
    for values in (labels, top):
        _require(not values.size or 0 <= values.min() <= values.max() < len(class_names))
    return Answers(files, labels, top, scores, own, class_names)


def _read_detections(
    arrays: Arrays, num_images: int, num_classes: int, base: int | None
) -> DetectionTable | PixelDetections:
    images, labels = (arrays[name].astype(np.int64) for name in ("images", "labels"))
    scores = arrays["scores"].astype(np.float64)
    stored = arrays["boxes"]
    boxes = stored / np.float64(THOUSANDTHS) if stored.dtype.kind == "i" else np.array(stored)
    count = len(images)
    _require(images.shape == labels.shape == scores.shape == (count,) and boxes.shape == (count, 4))
    if count:
        _require(images.min() >= 0 and images.max() < num_images)
        _require(labels.min() >= -1 and labels.max() < num_classes)
        _require(bool(np.isfinite(scores).all() and np.isfinite(boxes).all()))
    if base is not None:
        _require(base in (0, 1))
        return PixelDetections(images, labels, scores, boxes, base)
    _require(not count or labels.min() >= 0)
    table = DetectionTable(images, labels, scores, boxes)
    if "masks" in arrays:
        table.rles, table.mask_areas = _read_masks(arrays, count)
    return table


def _read_masks(arrays: Arrays, count: int) -> tuple[list[Rle], Ints]:
    lengths, sizes = arrays["mask_lengths"].astype(np.int64), arrays["mask_sizes"]
    codes = np.ascontiguousarray(arrays["masks"])
    _require(lengths.shape == (count,) and sizes.shape == (count, 2))
    _require(lengths.sum() == len(codes) and not (lengths < 0).any())
    areas = measure_codes(codes, lengths, sizes.astype(np.int64).prod(axis=1))
    _require(not (areas < 0).any())
    text, ends = codes.tobytes(), np.cumsum(lengths).tolist()
    starts = [0, *ends[:-1]]
    return [
        {"size": size, "counts": text[start:end]}
        for size, start, end in zip(sizes.tolist(), starts, ends, strict=True)
    ], areas
