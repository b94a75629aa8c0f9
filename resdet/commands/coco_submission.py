"""COCO's submission files: detections_<set>_<name>_results.json, zipped, per kind.

The server (cocodataset.org, "Upload") takes boxes and masks as files of the same name in separate
challenges, so each kind gets a folder of its own.
"""

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.evaluation import Result
from resdet.evaluation.coco_detections import IOU_TYPES, DetectionTable
from resdet.files.json import some
from resdet.files.writing import make_folder, open_atomic
from resdet.interop.coco_classes import COCO_CATEGORIES

_SETS = re.compile(r"(?:image_info|instances)_((?:test(?:-dev|-challenge)?|val)\d{4})")
_NAME = re.compile(r"[A-Za-z0-9-]+")


def check_name(name: str) -> None:
    """UserError for a name that the pattern cannot hold: `_` separates its parts."""
    if not _NAME.fullmatch(name):
        raise UserError(
            f"--submission {name!r}: give letters, digits and hyphens; the server's file name is "
            "detections_<set>_<name>_results"
        )


def write_coco_submission(
    result: Result, name: str, folder: Path, kinds: Sequence[str] | None = None
) -> list[Path]:
    """Write submission_bbox/ and, of masks, submission_segm/ into `folder`; returns the zip files.

    UserError where the ground truth is not COCO's val or test images with COCO's categories.
    """
    check_name(name)
    truth, table = result.truth, result.detections
    if truth is None or not isinstance(table, DetectionTable):
        raise UserError("--submission: the metric of this run is not COCO's; set eval.metric=coco")
    subset = _check_set(truth)
    make_folder(folder)
    records = table.records(truth)
    chosen = [kind for kind in kinds or IOU_TYPES if kind == "bbox" or table.rles is not None]
    paths = []
    for kind in chosen:
        stem = f"detections_{subset}_{name}_results"
        path = folder / f"submission_{kind}" / f"{stem}.zip"
        path.parent.mkdir(exist_ok=True)
        text = json.dumps([_of_kind(record, kind) for record in records])
        with open_atomic(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{stem}.json", text, zipfile.ZIP_DEFLATED)
        paths.append(path)
    return paths


def _of_kind(record: dict[str, Any], kind: str) -> dict[str, Any]:
    """The record without what is of the other kind."""
    other = "segmentation" if kind == "bbox" else "bbox"
    return {key: value for key, value in record.items() if key != other}


def _check_set(truth: AnnotationTable) -> str:
    """The server's name of the set of images, such as test-dev2015."""
    match = _SETS.fullmatch(Path(truth.files[0]).stem)
    if match is None or len(truth.files) > 1:
        raise UserError(
            f"--submission: {truth.source} is not a set that COCO's server evaluates; set "
            "data.val.annotations=image_info_test-dev2015.json, image_info_test-dev2017.json or "
            "instances_val2017.json and its images"
        )
    known = dict(COCO_CATEGORIES)
    wrong = [
        f"{number} {name}"
        for number, name in zip(truth.category_ids, truth.class_names, strict=True)
        if known.get(number) != name
    ]
    if wrong:
        raise UserError(
            f"--submission: {truth.source} has categories that are not COCO's: {some(wrong)}; "
            "COCO's server evaluates its own 80"
        )
    if not all(isinstance(image, int) for image in truth.image_ids):
        raise UserError(
            f"--submission: {truth.source} has image ids that are not COCO's numbers; "
            "give COCO's own file"
        )
    return match[1]
