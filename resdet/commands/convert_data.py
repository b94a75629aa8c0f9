"""What `resdet convert-data` runs: annotations of any format that is read, in another format."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from resdet.config.detection import SplitConfig
from resdet.config.find import own_path
from resdet.data.detection.annotated import read_images
from resdet.data.detection.file_names import ImageFolder
from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers import WRITERS
from resdet.data.names import pack_names
from resdet.errors import UserError
from resdet.files.findings import Finding, log_findings, strict_error
from resdet.files.images import read_sizes
from resdet.files.writing import check_folder

logger = logging.getLogger("resdet")


def convert_data(
    source: str | Path,
    out: str | Path,
    target: str,
    *,
    images: str | Path | None = None,
    format: str | None = None,
    part: str | None = None,
    strict: bool = False,
) -> list[str]:
    """Write the annotations that `source` holds to `out`; returns log lines.

    Args:
        source: annotations as `data.train.annotations` takes them.
        out: a .json file (coco), or a folder (voc, yolo); nothing may be there.
        target: a key of `WRITERS`.
        images: the folder of the images; None is `source`, or the folder that it is in.
        format: of `source`; None is recognised.
        part: train, val or test of a source that has several.
        strict: raise an error where annotations are left out or repaired while reading.
    Raises:
        UserError: `out` exists, or the format can't hold a name; and what reading raises.
    """
    path = own_path(out)
    if target not in WRITERS:
        raise UserError(f"--to {target}: expected one of {', '.join(WRITERS)}")
    _check_out(path, target)
    given = SplitConfig.model_validate(str(source))
    folder = str(given.images) if images is None else str(images)
    key = f"data.{part}" if part is not None else "data"
    read = read_images(folder, str(given.annotations), format=format, key=key)
    table, are_there = _as_found(read.table, folder)
    findings = read.findings + _unsized(table, folder)
    if findings and strict:
        raise strict_error(findings)
    log_findings(findings)
    if not len(table.image_ids):
        raise UserError(f"{table.source}: it lists no images, so there is nothing to convert")
    notes = WRITERS[target](table, path, folder if are_there else None, part or "train")
    if not are_there:
        notes.append(f"none of the images is in {folder}: give --images, or put them beside {path}")
    counts = f"{len(table.image_ids)} images, {len(table.labels)} objects"
    classes = f"{len(table.class_names)} classes"
    return [f"converted {source} to {path} ({target}): {counts}, {classes}", *notes]


def _check_out(path: Path, target: str) -> None:
    """UserError, before anything is read, where writing would replace something or can't work."""
    if target == "coco" and path.suffix.lower() != ".json":
        raise UserError(f"{path}: COCO's annotations are one file; give OUT the ending .json")
    if target != "coco" and path.suffix.lower() == ".json":
        raise UserError(f"{path}: {target} has a file per image; give OUT the name of a folder")
    if os.path.lexists(path) and not (
        target != "coco" and path.is_dir() and not any(path.iterdir())
    ):
        raise UserError(f"{path}: exists, and nothing is overwritten; give another OUT")
    if target == "coco" and not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder; make it first")
    check_folder(path.parent if target == "coco" else path, "OUT")


def _unsized(table: AnnotationTable, folder: str) -> list[Finding]:
    """Images whose size is unknown; their boxes in fractions can't be read."""
    rows = np.flatnonzero(table.sizes.min(axis=1, initial=1) < 1).tolist()
    what = f"has no size, and can't be read in {folder}"
    remedy = "it has no size in OUT, and no boxes that were fractions; correct the image file"
    return [Finding(table.file_of(row), table.image_name(row), what, remedy) for row in rows]


def _as_found(table: AnnotationTable, folder: str) -> tuple[AnnotationTable, bool]:
    """The images by the names that their files have in the folder, with the sizes of the files
    where the annotations lack them; and whether any is there."""
    places = ImageFolder(folder)
    located = [name if places.has(name) else places.locate(name) for name in table.file_names]
    names = [own or stated for own, stated in zip(located, table.file_names, strict=True)]
    sizes = table.sizes.copy()
    unsized = np.flatnonzero(sizes.min(axis=1, initial=1) < 1)
    sizes[unsized] = read_sizes(Path(folder), [names[row] for row in unsized.tolist()])
    return replace(table, file_names=pack_names(names), sizes=sizes), any(located)
