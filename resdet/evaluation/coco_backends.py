"""Runs hotcoco (fast) or pycocotools (the reference) on checked ground truth and detections.

Both trust their input: a short code or a repeated id silently gives a wrong number. Here they
only ever see checked arrays, with images and categories numbered by rank (which keeps their order,
hence the order of equal scores) and annotations from 1, since both take a match with an annotation
of id 0 for no match. Protocol: Lin et al. 2014, as pycocotools implements it.
"""

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
    image_ranks: Ints
    """(N,) ids by which the evaluator knows the images."""
    hotcoco: Any = None
    """hotcoco's COCOeval, for error analysis; None from pycocotools. It knows objects and
    detections by their rows, counted from 1."""


def run_backend(
    truth: AnnotationTable,
    table: DetectionTable,
    *,
    iou_type: str,
    backend: str = "fast",
    max_dets: Sequence[int] = (1, 10, 100),
    lvis: bool = False,
) -> Evaluation:
    """Match and accumulate; AP counts at the last of `max_dets`.

    With `lvis` this is the cap per image, over all classes, and in each image only the classes
    count that it is annotated for, as present or as absent.
    """
    backend = ALIASES.get(backend, backend)
    if backend not in BACKENDS:
        raise UserError(f"backend {backend!r}: the choices are {', '.join(BACKENDS)}")
    images, categories = _ranks(truth)
    gt, dt = _load(truth, table, images, categories, iou_type)
    # pycocotools prints its progress. Of it only matching and accumulation are used: `loadRes` and
    # `summarize`, where the traps are (empty results, AP −1 at other caps than 100), are not.
    with contextlib.redirect_stdout(io.StringIO()):
        if backend == "pycocotools":
            from pycocotools.cocoeval import COCOeval

            work = COCOeval(_as_pycocotools(gt), _as_pycocotools(dt), iou_type)
        else:
            kept = dt.cap_detections_per_image(max_dets[-1]) if lvis else dt
            work = hotcoco.COCOeval(gt, kept, iou_type, lvis_style=lvis)
        work.params.maxDets = list(max_dets)
        work.evaluate()
        work.accumulate()
    precision, recall = (np.asarray(work.eval[name]) for name in ("precision", "recall"))
    at_last_cap, of_label = precision[..., -1], categories - 1
    of_label_precision, of_label_recall = at_last_cap[:, :, of_label], recall[:, of_label]
    own = work if backend == "fast" else None
    return Evaluation(of_label_precision, of_label_recall, images, own)


def _as_pycocotools(table: Any) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = table.dataset
    coco.createIndex()
    return coco


def _ranks(truth: AnnotationTable) -> tuple[Ints, Ints]:
    """(N,) by image row and (K,) by label: ids from 1 in sorted order, as both evaluators sort;
    image ids by number where all are numbers, else as text."""
    ids = truth.image_ids.tolist()
    as_text = any(isinstance(image, str) for image in ids)
    in_order = sorted(range(len(ids)), key=lambda row: str(ids[row]) if as_text else ids[row])
    # a permutation's argsort is its inverse
    return 1 + np.argsort(in_order), 1 + np.argsort(np.argsort(truth.category_ids))


def _load(
    truth: AnnotationTable, table: DetectionTable, images: Ints, categories: Ints, iou_type: str
) -> tuple[Any, Any]:
    """Ground truth and detections as hotcoco.COCO."""
    is_segm = iou_type == "segm"
    masks: list[Any] | None = truth.rles if is_segm else None
    gt = hotcoco.COCO.from_arrays(
        *_listed(truth, images, categories),
        images[truth.image_of],
        categories[truth.labels],
        truth.boxes_xywh,
        ids=np.arange(1, len(truth.image_of) + 1),
        area=truth.areas,
        iscrowd=truth.crowd.astype(np.int64),
        segmentation=masks,
    )
    columns = (images[table.images], table.boxes, table.scores, categories[table.labels])
    rows = np.column_stack(columns).astype(np.float64, copy=False)
    found_masks: list[Any] | None = table.rles if is_segm else None
    dt = gt.load_res(rows, segmentation=found_masks)
    if is_segm:
        dt.update_anns(ids=np.arange(1, len(rows) + 1), area=table.areas(iou_type))
    return gt, dt


def _listed(
    truth: AnnotationTable, images: Ints, categories: Ints
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Image and category records, with LVIS's lists of classes and frequencies."""
    sizes = zip(images.tolist(), truth.sizes.tolist(), strict=True)
    listed = [{"id": rank, "height": height, "width": width} for rank, (height, width) in sizes]
    for name in truth.image_extras.keys() & {"neg_category_ids", "not_exhaustive_category_ids"}:
        for image, labels in zip(listed, iter(truth.image_extras[name]), strict=False):
            image[name] = categories[labels].tolist()
    names = zip(categories.tolist(), truth.class_names, strict=True)
    classes = [{"id": rank, "name": name} for rank, name in names]
    for each, frequency in zip(classes, truth.class_extras.get("frequency", ()), strict=False):
        each["frequency"] = frequency
    return listed, classes
