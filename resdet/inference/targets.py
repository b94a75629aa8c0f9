"""Where predictions are drawn: names below one folder that share nothing and overwrite nothing."""

import os
import struct
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from resdet.errors import printable

DETECTIONS, IMAGES = "detections.json", "images.json"
PREDICTIONS = "predictions.json"
"""A classifier's: what images.json has of an image, and its classes."""
CSV = {True: "detections.csv", False: "predictions.csv"}
JSON_LINES = {True: "detections.jsonl", False: "predictions.jsonl"}
"""By whether the model detects."""
LABELME, YOLO = "labelme", "yolo"
"""Folders of annotations."""
RESULT_NAMES = (
    *(DETECTIONS, IMAGES, PREDICTIONS, *CSV.values(), *JSON_LINES.values(), LABELME, YOLO),
)
"""Names that no drawing takes."""
RECORD_KEYS = {
    DETECTIONS: ("image_id", "category_id", "bbox", "score"),
    IMAGES: ("id", "file_name", "drawn"),
    PREDICTIONS: ("id", "file_name", "drawn", "classes"),
}
"""What tells these files from others of the same name."""

WRITTEN_VIDEO_SUFFIXES = (".mkv", ".avi")
# Where lossy pictures would spoil what is seen.
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".ppm")
JPEG_QUALITY = 92
JPEG_SIDE = 65_500
"""Longest side in pixels that the format holds."""
LONGEST_NAME = 255
"""Bytes of a file name."""

MARK = b"drawn by resdet predict"
"""In every drawing: a later prediction overwrites these and nothing else."""
EBML_VOID = 0xEC
"""The id of an element of Matroska that is passed over."""
MARKED_BYTES = 512
"""At the beginning or the end of a file, where `MARK` is looked for."""


def is_drawing(path: Path) -> bool:
    """Whether a file is a picture or video that `resdet predict` drew, and no link."""
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(MARKED_BYTES)
            file.seek(max(0, path.stat().st_size - MARKED_BYTES))
            return MARK in head or MARK in file.read()
    except OSError:
        return False


def save_drawing(picture: Image.Image, target: Path) -> None:
    """Write a drawing with its mark, over a former drawing alone; OSError if that is not possible.

    A link that has appeared at `target` is not followed, and no half picture stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_drawing(target):
        target.unlink()
    try:
        # x refuses whatever is there, links included
        with target.open("xb") as file:
            if target.suffix == ".png":
                text = PngInfo()
                text.add_text("Software", MARK.decode())
                picture.save(file, "PNG", pnginfo=text)
            else:
                picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
                picture.save(file, "JPEG", quality=JPEG_QUALITY, comment=MARK)
    except FileExistsError:
        raise
    except BaseException:
        with suppress(OSError):
            target.unlink()
        raise


def mark_video(path: Path) -> None:
    """Append the mark as a part that players skip; OSError if that is not possible."""
    if path.suffix == ".mkv":
        part = bytes((EBML_VOID, 0x80 | len(MARK))) + MARK
    else:
        padded = MARK + b"\0" * (len(MARK) % 2)
        part = struct.pack("<4sI", b"JUNK", len(padded)) + padded
    with path.open("ab") as file:
        file.write(part)


class Targets:
    """Names for drawings below a folder.

    They keep the names of the inputs, and get a number where the name is taken: by another drawing,
    in upper or lower case, by a folder, by an input, by the files of records, or by anything on
    the disk that is no former drawing. What a terminal would act on becomes "_" in them.
    """

    def __init__(self, out: Path, inputs: Iterable[Path]) -> None:
        """`out` and `inputs` are without links."""
        self.out = out
        self._closed = {_key(out / name) for name in RESULT_NAMES} | {_key(path) for path in inputs}
        """Files, and folders of frames: no other drawing is there or below."""
        self._folders: set[str] = set()
        """Those of other drawings: no drawing has their name."""
        self._folder_of: dict[tuple[str, ...], Path] = {(): out}

    def open_folders(self, names: Iterable[str]) -> None:
        """Choose the folders of all drawings, before any drawing takes the name of one."""
        for name in names:
            self._folder(tuple(name.split("/")[:-1]))

    def picture(self, name: str) -> Path:
        """For an image called `name`, a path with `/`."""
        suffix = Path(name).suffix.lower()
        return self._take(name, ".png" if suffix in LOSSLESS_SUFFIXES else ".jpg", ("",))

    def video(self, name: str) -> Path:
        """The folder of a video's frames; the video is beside it, with another suffix."""
        return self._take(name, "", ("", *WRITTEN_VIDEO_SUFFIXES))

    def _take(self, name: str, suffix: str, written: tuple[str, ...]) -> Path:
        *parts, last = name.split("/")
        folder = self._folder(tuple(parts))
        longest = max(len(suffix), *map(len, written))
        for candidate in _candidates(Path(last).stem or last, longest):
            target = folder / f"{candidate}{suffix}"
            files = [target.with_name(target.name + more) for more in written]
            keys = {_key(file) for file in files}
            if keys & (self._closed | self._folders) or any(map(_is_foreign, files)):
                continue
            self._closed |= keys
            return target
        raise AssertionError("numbers do not end")

    def _folder(self, parts: tuple[str, ...]) -> Path:
        if parts not in self._folder_of:
            above = self._folder(parts[:-1])
            for candidate in _candidates(parts[-1], 0):
                folder = above / candidate
                usable = not os.path.lexists(folder) or (
                    folder.is_dir() and not folder.is_symlink()
                )
                if _key(folder) not in self._closed and usable:
                    break
            self._folders.add(_key(folder))
            self._folder_of[parts] = folder
        return self._folder_of[parts]


def _candidates(name: str, longest_suffix: int) -> Iterator[str]:
    """The name, and with numbers; cut where a suffix of that length would not fit."""
    clean = "".join("_" if printable(each) != each else each for each in name)
    for number in count(1):
        tail = "" if number == 1 else f"-{number}"
        limit = LONGEST_NAME - longest_suffix - len(tail)
        yield clean.encode()[:limit].decode("utf-8", "ignore") + tail


def _key(path: Path) -> str:
    """Equal for names that some file system takes for one: A.jpg and a.jpg, é and e + accent."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _is_foreign(path: Path) -> bool:
    """Whether something is there that is neither a drawing nor a folder of drawings alone."""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or not path.is_dir():
        return not is_drawing(path)
    return not all(map(is_drawing, path.iterdir()))
