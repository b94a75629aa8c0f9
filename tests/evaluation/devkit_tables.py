"""The cases of `tests.fixtures.devkit_cases` as annotation tables and as the benchmarks' files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from tests.fixtures.devkit_cases import Case


def table_of(case: Case, base: int) -> AnnotationTable:
    """The ground truth, its boxes from inclusive pixels counted from `base` to continuous ones."""
    annotations: list[dict[str, Any]] = []
    for number, (image, label, (x1, y1, x2, y2), hard) in enumerate(case.objects, 1):
        box = [x1 - base, y1 - base, x2 - x1 + 1, y2 - y1 + 1]
        annotations.append(
            {
                "id": number,
                "image_id": case.image_ids[image],
                "category_id": label + 1,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "difficult": hard,
            }
        )
    sizes = case.sizes or [(500, 500)] * len(case.image_ids)
    return read_annotations(
        {
            "images": [
                {"id": image, "width": 1000 + width, "height": 1000 + height}
                for image, (width, height) in zip(case.image_ids, sizes, strict=True)
            ],
            "annotations": annotations,
            "categories": [{"id": i, "name": n} for i, n in enumerate(case.class_names, 1)],
        },
        [],
        outlines=False,
    )


def write_voc(case: Case, folder: Path) -> Path:
    """One file per class, as tests/fixtures/make_devkit_reference.py gives them to Octave."""
    folder.mkdir(exist_ok=True)
    for label, name in enumerate(case.class_names):
        lines = [
            f"{case.image_ids[image]} {score:.6f} {' '.join(f'{v:.1f}' for v in box)}\n"
            for image, own, score, box in case.detections
            if own == label
        ]
        (folder / f"comp4_det_test_{name}.txt").write_text("".join(lines))
    return folder


def write_det(case: Case, path: Path) -> Path:
    """The prediction file."""
    lines = [
        f"{case.image_ids[image]} {label + 1} {score:.6f} {' '.join(f'{v:.1f}' for v in box)}\n"
        for image, label, score, box in case.detections
    ]
    path.write_text("".join(lines))
    return path


def write_det_blacklist(case: Case, path: Path) -> Path:
    """Lines `image wnid`."""
    lines = [f"{case.image_ids[image]} {case.class_names[la]}\n" for image, la in case.blacklist]
    path.write_text("".join(lines))
    return path
