"""The image ids of an annotation file for the inputs of a prediction, by file name."""

import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from resdet.config.find import own_path
from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError, first_few, naming
from resdet.files.findings import Finding, log_findings
from resdet.inference.sources import Source

log = logging.getLogger("resdet")

LEFT_OUT = "its detections are drawn and left out of detections.json"
EXACT, PATH, BASE = range(3)
"""How a name matches: as a whole, as the end of the input's path, or in its last part."""


def read_truth(path: str | Path) -> AnnotationTable:
    """The images and categories of annotations in any format of `READERS`, which is recognised;
    UserError for others. Ids of VOC and ImageNet are the names of files without suffix."""
    with naming("--ids-from"):
        return read_annotations(own_path(path), [], outlines=False, format_key="")


def find_ids(table: AnnotationTable, sources: Sequence[Source]) -> dict[Source, int | str | None]:
    """The id that the file gives each source, and None where none or several fit.

    The `file_name` of an image is the source's name, the end of its path, or where only one image
    and one source have it, the last part. What has no id is logged, and so are images without a
    source. Raises UserError where no source has an id.
    """
    path = table.source
    rows, levels = _rows(table, sources)
    findings: list[Finding] = []
    ids = _ids(table, sources, rows, levels, findings)
    if all(each is None for each in ids):
        theirs = f"{table.file_names[0]}, …" if len(table.image_ids) else "none"
        raise UserError(
            f"--ids-from {path}: none of the {len(sources)} inputs ({sources[0].name}, …) has the "
            f"file_name of one of its {len(table.image_ids)} images alone ({theirs}); give the "
            "folder that these names start in"
        )
    log_findings(findings)
    absent = len(table.image_ids) - len({each for each in ids if each is not None})
    if absent:
        log.warning(
            "%s: %d of its %d images are not among the inputs; an evaluation counts their objects "
            "as missed",
            path,
            absent,
            len(table.image_ids),
        )
    return dict(zip(sources, ids, strict=True))


def check_categories(
    table: AnnotationTable, class_names: Sequence[str], ids: Sequence[int]
) -> None:
    """Warn of classes to which the annotations give another category id than the model does."""
    theirs = dict(zip(table.class_names, table.category_ids, strict=True))
    own = dict(zip(class_names, ids, strict=False))
    wrong = [
        f"{name} ({own[name]} and {theirs[name]})"
        for name in own
        if name in theirs and own[name] != theirs[name]
    ]
    if wrong:
        log.warning(
            "%s: has other category ids than the model for %d classes: %s; records have the "
            "model's",
            table.source,
            len(wrong),
            first_few(wrong),
        )


def _rows(table: AnnotationTable, sources: Sequence[Source]) -> tuple[list[list[int]], list[int]]:
    """The rows of the images that fit each source best, and how."""
    names = [_normal(name) for name in table.file_names]
    bare = [_without_suffix(name) for name in names]
    # XML files name images by their ids, whatever the suffix of the pictures
    is_bare = bare == [_normal(str(image_id)) for image_id in table.image_ids]
    names = bare if is_bare else names
    whole: dict[str, list[int]] = defaultdict(list)
    last: dict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(names):
        if name:
            whole[name].append(row)
            last[name.rpartition("/")[2]].append(row)
    found, levels = [], []
    for source in sources:
        place = source.shown if source.path is None else source.path.resolve().as_posix()
        own, path = _normal(source.name), _normal(place)
        if is_bare:
            own, path = _without_suffix(own), _without_suffix(path)
        same = last.get(own.rpartition("/")[2], [])
        ends = [row for row in same if "/" in names[row] and path.endswith(f"/{names[row]}")]
        options = ((EXACT, whole.get(own, [])), (PATH, ends), (BASE, same))
        level, rows = next((each for each in options if each[1]), (BASE, []))
        found.append([] if source.is_video else rows)
        levels.append(level)
    return found, levels


def _ids(
    table: AnnotationTable,
    sources: Sequence[Source],
    rows: Sequence[list[int]],
    levels: Sequence[int],
    findings: list[Finding],
) -> list[int | str | None]:
    best: dict[int, int] = {}
    for own, level in zip(rows, levels, strict=True):
        if len(own) == 1:
            best[own[0]] = min(level, best.get(own[0], BASE))
    rivals = Counter(
        own[0]
        for own, level in zip(rows, levels, strict=True)
        if len(own) == 1 and level == best[own[0]]
    )
    ids: list[int | str | None] = []
    for source, own, level in zip(sources, rows, levels, strict=True):
        what = None
        if source.is_video:
            what, remedy = "is a video, whose frames have no ids there", LEFT_OUT
        elif not own:
            what, remedy = "is the file_name of no image", LEFT_OUT
        elif len(own) > 1:
            what = f"is the file_name of {len(own)} images"
            remedy = f"{LEFT_OUT}; give the folder that file_name starts in"
        elif level > best[own[0]] or rivals[own[0]] > 1:
            what = f"is not the only input that can be image {table.image_ids[own[0]]!r}"
            remedy = f"{LEFT_OUT}; give each image once, from the folder that file_name starts in"
        if what is None:
            ids.append(table.image_ids[own[0]])
        else:
            findings.append(Finding(table.source, f"input {source.name!r}", what, remedy))
            ids.append(None)
    return ids


def _normal(name: str) -> str:
    """One form of names that are equal to people: composed, with `/`."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")) if name else name
