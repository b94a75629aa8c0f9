"""Annotation formats: one file per format, each with a function that reads it into a table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resdet.data.detection.merge import merge_tables
from resdet.data.detection.readers import coco, imagenet_det, imagenet_loc, voc
from resdet.data.detection.readers.image_lists import expand
from resdet.data.detection.table import AnnotationTable, Source
from resdet.errors import NotRegistered, first_few
from resdet.files.findings import DataError, Finding

READERS: dict[str, Callable[[Source, list[Finding]], AnnotationTable]] = {
    "coco": coco.read,
    "voc": voc.read,
    "imagenet_det": imagenet_det.read,
    "imagenet_loc": imagenet_loc.read,
}
"""By the name that `data.train.format` gives. A reader takes a `Source` and a list, to which it
adds a `Finding` for each object that it drops or repairs; it raises `DataError` where the whole
file is unusable. A module that a config names in `imports` may add a row."""

OTHERS = (".txt", ".xml", ".csv", ".yaml", ".yml")
"""Suffixes of files that other formats have; YAML is YOLO's."""

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
"""Suffixes by which a folder of images is recognised in messages."""

XML_FORMATS = ("voc", "imagenet_det", "imagenet_loc")
"""Formats of which no file is JSON."""

MOST_LISTED = 1000
"""Files of a folder that a message looks at."""


def read_annotations(
    source: str | Path | dict[str, Any] | Sequence[str | Path],
    findings: list[Finding],
    *,
    format: str = "coco",
    classes: Sequence[str] | None = None,
    extras: Sequence[str] = (),
    outlines: bool = True,
) -> AnnotationTable:
    """The table of one or more annotation files, or of a COCO dict, which is left unchanged.

    Args:
        source: a path, several, or a dict in COCO's layout.
        findings: gets what was dropped or repaired.
        format: a key of `READERS`.
        classes: category names to keep, in label order; None keeps all.
        extras: keys of further values per object.
        outlines: whether outlines are wanted; without them reading is faster.
    Raises:
        DataError: a file is missing or not in this format, or the files' classes do not agree.
    """
    if isinstance(source, (str, Path, dict)):
        source = [source]  # type: ignore[list-item]
    if not isinstance(source, Sequence) or not source:
        raise DataError(f"the ground truth is {source!r:.60}; give a file, several, or COCO's dict")
    tables = []
    for one in source:
        path, data = ("ground truth", one) if isinstance(one, dict) else (str(one), None)
        given = Source(path, None, tuple(extras), outlines, data, classes=tuple(classes or ()))
        tables.append(read_file(given, format, findings))
    return merge_tables(tables, classes)


def is_there(path: str) -> bool:
    """Whether a file or folder exists; for a pattern, whether it names some file."""
    return any(file.exists() for file in expand(path))


def read_file(source: Source, format: str, findings: list[Finding]) -> AnnotationTable:
    """The table of one file, by the reader of its format."""
    if format not in READERS:
        raise NotRegistered(
            f"{source.path}: {source.format_key}: no reader for {format!r}; the choices are "
            f"{', '.join(READERS)}"
        )
    path = Path(source.path)
    if format == "coco" and source.data is None and _is_of_another(path):
        raise DataError(f"{path}: not a JSON file as COCO's are; {_other_format(path, source)}")
    if format in XML_FORMATS and path.suffix.lower() == ".json" and path.is_file():
        raise DataError(
            f"{path}: a JSON file, and {source.format_key} is {format}; set {source.format_key} to "
            "coco, or give what this format takes"
        )
    return READERS[format](source, findings)


def _is_of_another(path: Path) -> bool:
    """Whether this is a folder, or a file of another format by its suffix and first character."""
    if not path.is_file() or path.suffix.lower() not in OTHERS:
        return path.is_dir()
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")[:1] not in (b"{", b"[")


def _other_format(path: Path, source: Source) -> str:
    """What to do with a file or folder that is not COCO's, by the names in the folder."""
    files = sorted(path.iterdir())[:MOST_LISTED] if path.is_dir() else [path]
    suffixes = {file.suffix.lower() for file in files}
    key = source.format_key
    if ".xml" in suffixes:
        folder = "" if path.is_dir() else " and give the folder or a list of image names"
        return f"it looks like VOC's XML: set {key} to voc{folder}"
    if path.is_dir() and ".json" in suffixes:
        names = [file.name for file in files if file.suffix.lower() == ".json"]
        return f"give a file of this folder: {first_few(names, 3)}"
    if suffixes & set(OTHERS):
        return (
            "YOLO's labels have to be converted to COCO; for lists of images and other formats set "
            f"{key} to one of {', '.join(READERS)}"
        )
    if suffixes & set(IMAGES):
        return "this is a folder of images; give the JSON file of their annotations"
    return f"give a JSON file, or set {key} to one of {', '.join(READERS)}"


def read_classes(
    path: str, format: str, classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Names and category ids of a file's classes in label order; `classes` as `read_annotations`.

    Raises:
        DataError: the file is not in this format, or lacks one of `classes`.
    """
    source = Source(path, classes_only=True, classes=tuple(classes or ()))
    table = merge_tables([read_file(source, format, [])], classes)
    return table.class_names, table.category_ids
