"""Runs hotcoco (the fast one) or pycocotools (the referee) on checked ground truth and detections.

Both trust their input: a short code or a repeated id silently gives a wrong number. Here they
only ever see checked arrays, with images and categories numbered by rank (which keeps their order,
hence the order of equal scores) and annotations from 1, since both take a match with an annotation
of id 0 for no match. Protocol: Lin et al. 2014, as pycocotools implements it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation.coco_detections import DetectionTable

BACKENDS = ("fast", "pycocotools")
ALIASES = {"hotcoco": "fast"}

Ints = NDArray[np.int64]


@dataclass
class Evaluation:
    """One IoU type, evaluated. T IoU thresholds .50….95, R recalls 0….1, K classes by label,
    A areas (all, small, medium, large), M caps on detections; -1 where there are no objects."""

    precision: NDArray[np.float64]
    """(T, R, K, A) at the last cap."""
    recall: NDArray[np.float64]
    """(T, K, A, M)."""
    hotcoco: Any = None
    """hotcoco's COCOeval, for error analysis; None from pycocotools."""


def run_backend(
    truth: AnnotationTable,
    table: DetectionTable,
    *,
    iou_type: str,
    backend: str = "fast",
    max_dets: Sequence[int] = (1, 10, 100),
) -> Evaluation:
    """Match and accumulate; AP counts at the last of `max_dets`."""
    backend = ALIASES.get(backend, backend)
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: the choices are {', '.join(BACKENDS)}")
    ranks = Ranks(truth)
    if backend == "fast":
        work = _hotcoco(truth, table, ranks, iou_type, max_dets)
    else:
        work = _pycocotools(truth, table, ranks, iou_type, max_dets)
    return _by_label(work, ranks)


def run_lvis(
    truth: AnnotationTable, table: DetectionTable, *, iou_type: str, max_dets: int
) -> Evaluation:
    """LVIS: the best `max_dets` detections per image, over all classes. In each image only the
    classes count that it is annotated for, as present or as absent."""
    ranks = Ranks(truth)
    gt, dt = load_hotcoco(truth, table, ranks, iou_type)
    work = hotcoco.COCOeval(gt, dt.cap_detections_per_image(max_dets), iou_type, lvis_style=True)
    work.params.max_dets = [max_dets]
    work.evaluate()
    work.accumulate()
    return _by_label(work, ranks)


def _by_label(work: Any, ranks: Ranks) -> Evaluation:
    precision, recall = (np.asarray(work.eval[name]) for name in ("precision", "recall"))
    of_label = ranks.categories - 1
    is_fast = isinstance(work, hotcoco.COCOeval)
    at_last_cap = precision[..., -1]
    return Evaluation(at_last_cap[:, :, of_label], recall[:, of_label], work if is_fast else None)


class Ranks:
    """Image and category ids from 1 in sorted order, as both evaluators sort.

    Image ids are sorted by number where all are numbers, else as text.
    """

    def __init__(self, truth: AnnotationTable) -> None:
        ids = truth.image_ids.tolist()
        as_text = any(isinstance(image, str) for image in ids)
        order = sorted(range(len(ids)), key=lambda row: str(ids[row]) if as_text else ids[row])
        self.images = _rank(order)
        """(N,) by row."""
        self.categories = _rank(np.argsort(truth.category_ids, kind="stable"))
        """(K,) by label."""


def _rank(order: Any) -> Ints:
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def load_hotcoco(
    truth: AnnotationTable, table: DetectionTable, ranks: Ranks, iou_type: str
) -> tuple[Any, Any]:
    """Ground truth and detections as hotcoco.COCO."""
    images, categories = _listed(truth, ranks)
    masks: list[Any] | None = truth.rles() if iou_type == "segm" else None
    gt = hotcoco.COCO.from_arrays(
        images,
        categories,
        ranks.images[truth.image_of],
        ranks.categories[truth.labels],
        truth.boxes_xywh,
        ids=np.arange(1, len(truth.image_of) + 1),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=masks,
    )
    columns = [
        ranks.images[table.images][:, None],
        table.boxes,
        table.scores[:, None],
        ranks.categories[table.labels][:, None],
    ]
    rows = np.concatenate(columns, axis=1, dtype=np.float64)
    if iou_type == "bbox":
        return gt, gt.load_res(rows)
    dt = gt.load_res(rows, segmentation=table.rles)  # type: ignore[arg-type]  # list is invariant
    dt.update_anns(ids=np.arange(1, len(rows) + 1), area=table.areas(iou_type))
    return gt, dt


def _hotcoco(
    truth: AnnotationTable,
    table: DetectionTable,
    ranks: Ranks,
    iou_type: str,
    max_dets: Sequence[int],
) -> Any:
    gt, dt = load_hotcoco(truth, table, ranks, iou_type)
    evaluation = hotcoco.COCOeval(gt, dt, iou_type)
    evaluation.params.max_dets = list(max_dets)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _pycocotools(
    truth: AnnotationTable,
    table: DetectionTable,
    ranks: Ranks,
    iou_type: str,
    max_dets: Sequence[int],
) -> Any:
    """Only matching and accumulation are used: `loadRes` and `summarize`, where the traps are
    (empty results, AP −1 at other caps than 100), are not."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        both = []
        for side in load_hotcoco(truth, table, ranks, iou_type):
            coco = COCO()
            coco.dataset = side.dataset
            coco.createIndex()
            both.append(coco)
        evaluation = COCOeval(*both, iou_type)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _listed(
    truth: AnnotationTable, ranks: Ranks
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Image and category records."""
    sizes = zip(ranks.images.tolist(), truth.sizes.tolist(), strict=True)
    images = [{"id": rank, "height": height, "width": width} for rank, (height, width) in sizes]
    for name in truth.image_extras.keys() & {"neg_category_ids", "not_exhaustive_category_ids"}:
        for image, labels in zip(images, iter(truth.image_extras[name]), strict=False):
            image[name] = ranks.categories[labels].tolist()
    names = zip(ranks.categories.tolist(), truth.class_names, strict=True)
    categories = [{"id": rank, "name": name} for rank, name in names]
    for category, frequency in zip(
        categories, truth.class_extras.get("frequency", ()), strict=False
    ):
        category["frequency"] = frequency
    return images, categories
