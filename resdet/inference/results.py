"""The files of a prediction's results, one class per format; all can be read at any time."""

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from resdet.errors import UserError
from resdet.files.records import RecordFile, holds_records
from resdet.files.writing import GrowingFile, csv_cell, write_text
from resdet.inference.pictures import Picture
from resdet.inference.targets import (
    CSV,
    DETECTIONS,
    IMAGES,
    JSON_LINES,
    PREDICTIONS,
    RECORD_KEYS,
)
from resdet.structures import Classification, Detections


@dataclass
class Page:
    """What is known of a predicted picture."""

    picture: Picture
    prediction: Detections | Classification
    entry: dict[str, Any]
    """id, file_name, width, height, frame, time_s, source, drawn."""

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """COCO's, of a detector."""
        assert isinstance(self.prediction, Detections)
        return self.prediction.to_coco(self.entry["id"])


class ResultFile(Protocol):
    """The results of all pictures in one format. The file is made by `open`, when the first picture
    is complete: until then that of an earlier prediction stays."""

    def open(self) -> None:
        """Replace the earlier file by an empty one; OSError where the disk refuses."""

    def encode(self, page: Page) -> Any:
        """What `add` writes of a picture; safe to run in any thread."""

    def add(self, piece: Any) -> None:
        """Write what `encode` gave, picture by picture in order; OSError where the disk refuses."""

    def close(self) -> None: ...


class _Records:
    """A JSON array with one record per line."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / name
        check_own(self._path, holds_records(self._path, RECORD_KEYS[name]))
        self._file: RecordFile | None = None

    def open(self) -> None:
        self._file = RecordFile(self._path)

    def add(self, piece: list[dict[str, Any]]) -> None:
        assert self._file is not None
        self._file.extend(piece)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class CocoRecords(_Records):
    """detections.json: COCO's result format, of pictures with an id."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        if not detects:
            raise needs_detector("coco")
        super().__init__(folder, DETECTIONS)

    def encode(self, page: Page) -> list[dict[str, Any]]:
        return [] if page.entry["id"] is None else page.records


class Entries(_Records):
    """images.json, or predictions.json with the classes of each picture."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        super().__init__(folder, IMAGES if detects else PREDICTIONS)

    def encode(self, page: Page) -> list[dict[str, Any]]:
        if isinstance(page.prediction, Detections):
            return [page.entry]
        return [{**page.entry, "classes": page.prediction.to_records()}]


class _Lines:
    """A text file that grows by whole lines."""

    def __init__(self, path: Path, heading: bytes, is_own: Callable[[bytes], bool]) -> None:
        """`is_own` tells by its first line whether a file was written here."""
        self._path, self._heading = path, heading
        check_own(path, _first_line_is(path, is_own))
        self._file: GrowingFile | None = None

    def open(self) -> None:
        write_text(self._path, self._heading.decode())
        self._file = GrowingFile(self._path)

    def add(self, piece: bytes) -> None:
        assert self._file is not None
        if piece:
            self._file.append(piece)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class JsonLines(_Lines):
    """detections.jsonl or predictions.jsonl: one object per image or frame, with what images.json
    has and a list of its detections or classes."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        super().__init__(folder / JSON_LINES[detects], b"", _is_json_line)

    def encode(self, page: Page) -> bytes:
        if isinstance(page.prediction, Detections):
            names = page.prediction.class_names
            labels = page.prediction.labels.tolist()
            found = [
                {key: value for key, value in record.items() if key != "image_id"}
                | ({"class_name": names[label]} if names else {})
                for record, label in zip(page.records, labels, strict=True)
            ]
            line = {**page.entry, "detections": found}
        else:
            line = {**page.entry, "classes": page.prediction.to_records()}
        return _encoded(json.dumps(line, ensure_ascii=False) + "\n")


CSV_PICTURE = ("image", "frame", "time_s")
CSV_BOX = ("x1", "y1", "x2", "y2", "class", "score", "track_id", "category_id")
CSV_CLASS = ("class", "words", "score", "label")
CSV_IDS = ("image_id", "width", "height", "source")


class CsvTable(_Lines):
    """detections.csv or predictions.csv: one row per detection or class; an image without any has
    one row with empty cells. Masks are left out."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        self._columns = (CSV_PICTURE, CSV_BOX if detects else CSV_CLASS, CSV_IDS)
        heading = _rows([[name for group in self._columns for name in group]])
        super().__init__(folder / CSV[detects], heading, lambda line: line == heading)

    def encode(self, page: Page) -> bytes:
        entry = {**page.entry, "image": page.entry["file_name"], "image_id": page.entry["id"]}
        if isinstance(page.prediction, Detections):
            own = _boxes(page.prediction)
        else:
            own = [{"class": each["name"], **each} for each in page.prediction.to_records()]
        before, middle, after = self._columns
        return _rows(
            [
                *(entry[name] for name in before),
                *(each.get(name) for name in middle),
                *(entry[name] for name in after),
            ]
            for each in own or [{}]
        )


def _boxes(found: Detections) -> list[dict[str, Any]]:
    """The cells of each detection by column."""
    names, ids = found.class_names, found.category_ids
    tracks = [None] * len(found) if found.track_ids is None else found.track_ids.tolist()
    return [
        {
            **dict(zip(CSV_BOX, (round(side, 3) for side in box), strict=False)),
            "class": names[label] if names else label,
            "score": round(score, 6),
            "track_id": track,
            "category_id": ids[label] if ids else label + 1,
        }
        for box, score, label, track in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), tracks, strict=True
        )
    ]


def check_own(path: Path, is_own: bool) -> None:
    """UserError where something is at `path` that no prediction wrote."""
    if os.path.lexists(path) and not is_own:
        raise UserError(
            f"{path}: is not a file that predict wrote, and would be replaced; move it, or give "
            "another --out"
        )


def needs_detector(name: str) -> UserError:
    """The error of a format that a classifier has nothing for."""
    return UserError(f"--format {name}: holds boxes, and a classifier has none; give csv or jsonl")


def _first_line_is(path: Path, is_own: Callable[[bytes], bool]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return is_own(file.readline(1 << 26))


def _is_json_line(line: bytes) -> bool:
    if not line:  # no picture could be predicted
        return True
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.keys() >= {"file_name", "drawn", "source"}


def _rows(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(
        [csv_cell(cell) for cell in row] for row in rows
    )
    return _encoded(text.getvalue())


def _encoded(text: str) -> bytes:
    # a lone surrogate of a file name becomes an escape
    return text.encode("utf-8", "backslashreplace")
