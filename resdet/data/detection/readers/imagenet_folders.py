"""Where ImageNet's layout of 2015 and later has the XML files of a set of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from resdet.data.detection.readers.image_lists import ImageList, list_folder, read_lists
from resdet.data.detection.readers.xml_files import Report, XmlColumns
from resdet.data.detection.table import Source
from resdet.files.findings import DataError
from resdet.files.regular import is_file

FIRST_PIXEL = 0
SUFFIX = ".JPEG"

ENOUGH = 1000
"""Boxes that tell from which number their pixels count."""

OTHER_CLASS = "it is left out; correct the class, or remove the object"


def base_name(name: str) -> str:
    """A name without its folders."""
    return name.rpartition("/")[2]


def find_images(source: Source, kind: str, report: Report) -> tuple[Path, ImageList]:
    """The folder of the XML files, and the names of the images, relative to it.

    Args:
        source: lists of images, or a folder of XML files.
        kind: DET or CLS-LOC, the folder below Data, Annotations and ImageSets.
    Raises:
        DataError: there is no such folder or no XML file, or the lists are unusable.
    """
    path = Path(source.path)
    if path.is_dir():
        if (path / "Annotations").is_dir():
            raise DataError(
                f"{path}: holds Annotations/; give a list, {path}/ImageSets/{kind}/val.txt, or a "
                f"folder of XML files, {path}/Annotations/{kind}/val"
            )
        return path, list_folder(path)
    folder = _xml_folder(path, source.images, kind)
    return folder, read_lists(source.path, lambda name: is_file(folder / f"{name}.xml"), report)


def _xml_folder(path: Path, images: str | None, kind: str) -> Path:
    """Beside the images, Data replaced by Annotations; or beside the folder ImageSets."""
    choices = []
    if images is not None:
        parts = Path(images).absolute().parts
        if "Data" in parts:
            last = len(parts) - 1 - parts[::-1].index("Data")
            choices.append(Path(*parts[:last], "Annotations", *parts[last + 1 :]))
    split = path.name.partition("_")[0].partition(".")[0].rstrip("0123456789")
    choices += [parent / "Annotations" / kind / split for parent in path.absolute().parents[:3]]
    found = next((folder for folder in choices if folder.is_dir()), None)
    if found is None and not path.name.startswith("test"):
        raise DataError(
            f"{path}: no XML files of its images, neither in {choices[0]} nor elsewhere beside the "
            f"list or the images; unpack Annotations/{kind} beside Data/{kind}"
        )
    return found or choices[0]


def report_origin(columns: XmlColumns, report: Report) -> None:
    """A finding where many boxes look as if they counted pixels from 1: none starts at 0, and some
    end at the image's width or height, which is past the last pixel."""
    sizes = columns.sizes[columns.image_of]
    known = sizes.min(axis=1, initial=1) > 0
    corners, ends = columns.corners[known], sizes[known, ::-1]
    past = int((corners[:, 2:] >= ends).any(axis=1).sum())
    if len(corners) >= ENOUGH and not (corners[:, :2] <= 0).any() and 100 * past > len(corners):
        what = f"have {len(corners)} boxes, of which none starts at 0 and {past} end past the image"
        report("all files", what, "check whether they count pixels from 1, as VOC does")


def report_unknown(
    files: list[str], columns: XmlColumns, label_of: Mapping[str, int], report: Report
) -> None:
    """Findings for objects of classes that the set does not have."""
    unknown = [row for row, name in enumerate(columns.names) if name not in label_of]
    if not unknown:
        return
    for image, row in zip(columns.image_of.tolist(), columns.name_of.tolist(), strict=True):
        if row in unknown:
            what = f"has an object of class {columns.names[row]!r:.60}, none of {len(label_of)}"
            report(files[image], what, OTHER_CLASS)
