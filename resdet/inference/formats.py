"""The formats of a prediction's results by name."""

from collections.abc import Callable, Sequence
from pathlib import Path

from resdet.errors import UserError, did_you_mean
from resdet.inference.annotations import LabelMeFiles, YoloFiles
from resdet.inference.results import CocoRecords, CsvTable, Entries, JsonLines, ResultFile

FORMATS: dict[str, Callable[..., ResultFile]] = {
    "coco": CocoRecords,
    "csv": CsvTable,
    "jsonl": JsonLines,
    "labelme": LabelMeFiles,
    "yolo": YoloFiles,
}
"""By the name in --format: made from the folder of the results, and whether the model `detects`."""


def check_formats(names: Sequence[str]) -> None:
    """UserError for a name that is not in `FORMATS`."""
    for name in names:
        if name not in FORMATS:
            known = f"the formats are {', '.join(FORMATS)}"
            raise UserError(f"--format {name}: {did_you_mean(name, FORMATS, known)}")


def open_results(folder: Path, formats: Sequence[str] | None, *, detects: bool) -> list[ResultFile]:
    """The files of results in the order they are written: the list of pictures last, so that what
    it lists is complete. None is COCO's format of a detector, and the list alone of a classifier.

    UserError where other programs' files have their names.
    """
    if formats is None:
        formats = ["coco"] if detects else []
    check_formats(formats)
    made = [FORMATS[name](folder, detects=detects) for name in dict.fromkeys(formats)]
    return [*made, Entries(folder, detects=detects)]
