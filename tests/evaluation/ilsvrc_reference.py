"""ImageNet's reference data as annotation tables, for tests at full size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resdet.data.detection.table import AnnotationTable
from resdet.data.names import Ids, pack_names


def flat_table(
    image_ids: NDArray[np.int64],
    class_names: list[str],
    image_of: NDArray[np.int64],
    boxes_xywh: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> AnnotationTable:
    """A table of plain boxes, made at once; category ids are label + 1."""
    count, objects = len(image_ids), len(labels)
    none = np.zeros(objects, bool)
    return AnnotationTable(
        files=["generated"],
        class_names=class_names,
        category_ids=list(range(1, len(class_names) + 1)),
        image_ids=Ids(image_ids),
        file_of_image=np.zeros(count, np.int32),
        file_names=pack_names([""] * count),
        sizes=np.full((count, 2), 500, np.int32),
        image_of=image_of,
        boxes_xywh=boxes_xywh,
        labels=labels,
        areas=boxes_xywh[:, 2:].prod(axis=1),
        crowd=none,
        difficult=none,
        ignored=none,
        annotation_ids=np.arange(1, objects + 1),
    )


def loc_table(shared_data: Path) -> AnnotationTable:
    """The ground truth of the 50,000 validation images; image ids are 1 to 50,000, category ids the
    devkit's class numbers."""
    arrays = np.load(shared_data / "ilsvrc_reference" / "loc_val_gt.npz")
    counts = arrays["num_boxes"].astype(np.int64)
    image_of = np.repeat(np.arange(len(counts)), counts)
    boxes = arrays["boxes_xyxy_0based_inclusive"].astype(np.float64)
    boxes[:, 2:] += 1 - boxes[:, :2]
    labels = arrays["label"].astype(np.int64)[image_of] - 1
    names = [f"class {number}" for number in range(1, 1001)]
    return flat_table(np.arange(1, len(counts) + 1), names, image_of, boxes, labels)


def generated_det(
    num_images: int, num_classes: int, *, objects: int, detections: int, seed: int
) -> tuple[AnnotationTable, tuple[NDArray[np.int64], ...], NDArray[np.float64]]:
    """Ground truth with `objects` per image, and `detections` per image near them: the table, then
    (images, labels) and (N, 5) score x1 y1 x2 y2."""
    rng = np.random.RandomState(seed)
    image_of = np.repeat(np.arange(num_images), objects)
    boxes = np.concatenate(
        [rng.randint(0, 400, (len(image_of), 2)), rng.randint(5, 100, (len(image_of), 2))], 1
    ).astype(np.float64)
    labels = rng.randint(0, num_classes, len(image_of)).astype(np.int64)
    names = [f"class {number}" for number in range(1, num_classes + 1)]
    table = flat_table(np.arange(1, num_images + 1), names, image_of, boxes, labels)
    images = np.repeat(np.arange(num_images), detections)
    near = images * objects + rng.randint(0, objects, len(images))
    corners = boxes[near]
    corners[:, 2:] += corners[:, :2] - 1
    corners += rng.randint(-9, 10, corners.shape)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2])
    guessed = np.where(rng.randint(0, 4, len(images)) > 0, labels[near], 0)
    values = np.column_stack([rng.randint(0, 10**6, len(images)) / 10**6, corners])
    return table, (images, guessed.astype(np.int64)), values
