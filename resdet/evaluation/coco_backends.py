"""Runs our own evaluator (the fast one) or pycocotools (the referee) on checked records.

Of pycocotools only matching and accumulation are used: `loadRes` and `summarize`, where the traps
are (empty results, AP −1 at other caps than 100), are not.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_utils

from resdet.errors import UserError
from resdet.evaluation.coco_detections import DetectionTable
from resdet.evaluation.coco_input import GroundTruth
from resdet.evaluation.coco_matching import match_and_accumulate

Backend = Literal["fast", "pycocotools"]
BACKENDS: tuple[Backend, ...] = ("fast", "pycocotools")


def run_backend(
    truth: GroundTruth,
    table: DetectionTable,
    *,
    kind: str,
    backend: str,
    max_dets: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A) at the last of `max_dets`, and recall (T, K, A, M); -1 where there is
    nothing to find.

    T 10 IoU thresholds .50….95, R 101 recalls 0….1, K classes by rank, A areas (all, small, medium,
    large), M caps `max_dets`. Protocol: Lin et al. 2014, as pycocotools implements it.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: the choices are {', '.join(BACKENDS)}")
    if backend == "fast":
        return match_and_accumulate(truth, table, kind=kind, max_dets=max_dets)
    return _run_pycocotools(truth, table, kind, max_dets)


def _run_pycocotools(
    truth: GroundTruth, table: DetectionTable, kind: str, max_dets: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [
        {"id": rank, **dict(zip(("height", "width"), truth.sizes.get(rank, (0, 0)), strict=True))}
        for rank in truth.image_rank.values()
    ]
    categories = [{"id": rank, "name": truth.class_names[rank - 1]} for rank in _ranks(truth)]
    # It prints its progress.
    with contextlib.redirect_stdout(io.StringIO()):
        gt = _coco(COCO, images, categories, _gt_records(truth, kind))
        dt = _coco(COCO, images, categories, _dt_records(table, kind))
        evaluator = COCOeval(gt, dt, kind)
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return np.asarray(precision)[..., -1], np.asarray(recall)


def _ranks(truth: GroundTruth) -> range:
    return range(1, len(truth.class_names) + 1)


def _coco(
    coco_class: Any,
    images: list[dict[str, Any]],
    categories: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
) -> Any:
    coco = coco_class()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco


def _gt_records(truth: GroundTruth, kind: str) -> list[dict[str, Any]]:
    """New dicts, since it writes into them."""
    if kind == "bbox":
        return [dict(record) for record in truth.annotations]
    return [
        {**record, "segmentation": rle}
        for record, rle in zip(truth.annotations, truth.rles(), strict=True)
    ]


def _dt_records(table: DetectionTable, kind: str) -> list[dict[str, Any]]:
    """Result records with the area that decides whether an unmatched one counts for a size.

    For masks it is the mask's area, as for records without a box in pycocotools, and as Detectron2
    does it: with the box's area small, medium and large would not mean the same on both sides.
    """
    boxes = table.boxes.tolist()
    if kind == "bbox":
        areas = (table.boxes[:, 2] * table.boxes[:, 3]).tolist()
    else:
        assert table.rles is not None, "masks were not read"
        # One at a time: pycocotools 2.0.11 raises OverflowError for lists of 256 masks and more.
        areas = [int(mask_utils.area(rle)) for rle in table.rles]
    columns = zip(
        table.images.tolist(),
        table.categories.tolist(),
        boxes,
        areas,
        table.scores.tolist(),
        strict=True,
    )
    records: list[dict[str, Any]] = [
        {
            "id": index,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": area,
            "score": score,
            "iscrowd": 0,
        }
        for index, (image, category, box, area, score) in enumerate(columns, start=1)
    ]
    if kind == "segm" and table.rles is not None:
        for record, rle in zip(records, table.rles, strict=True):
            record["segmentation"] = rle
    return records
