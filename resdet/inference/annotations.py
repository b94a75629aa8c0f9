"""Predictions as annotations to correct: LabelMe's files, and YOLO's layout."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from resdet.data.detection.outlines import box_outlines, rle_outlines
from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.writers import labelme, yolo
from resdet.data.detection.writers.layout import check_classes
from resdet.data.names import pack_ids, pack_names
from resdet.errors import UserError
from resdet.files.writing import GrowingFile, make_folder, write_bytes, write_text
from resdet.inference.pictures import Picture
from resdet.inference.results import Page, needs_detector
from resdet.inference.targets import LABELME, YOLO
from resdet.structures import TRACK_ID, Detections

QUALITY = 95
"""Of the JPEG files of frames and downloaded images, on which people draw."""
PART = "train"


class _Annotations:
    """A folder of annotations, which people may have corrected: it is never written again."""

    def __init__(self, folder: Path, name: str, *, detects: bool) -> None:
        if not detects:
            raise needs_detector(name)
        self.out, self.folder = folder, folder / name
        if os.path.lexists(self.folder) and (
            not self.folder.is_dir() or any(self.folder.iterdir())
        ):
            raise UserError(
                f"{self.folder}: holds annotations that may have been corrected, and they are not "
                "overwritten; move the folder, or give another --out"
            )

    def open(self) -> None:
        make_folder(self.folder)

    def free_name(self, page: Page, folder: Path, suffix: str) -> str:
        """A name below `folder` without suffix that no other picture has: that of the drawing."""
        picture = page.picture
        target = picture.source.target
        if picture.frame is not None:
            target /= f"frame_{picture.frame:06d}"
        stem = target.relative_to(self.out)
        stem = stem if picture.frame is not None else stem.with_suffix("")
        name, number = stem.as_posix(), 1
        while (folder / f"{name}{suffix}").exists():
            number += 1
            name = f"{stem.as_posix()}-{number}"
        make_folder((folder / name).parent)
        return name

    def close(self) -> None: ...


class LabelMeFiles(_Annotations):
    """labelme/NAME.json with the path to the image, or beside the frame that it belongs to."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        super().__init__(folder, LABELME, detects=detects)

    def encode(self, page: Page) -> tuple[Page, dict[str, object], bytes | None]:
        record = next(labelme.documents(_table(page), labelme.Counts()))
        return page, record, _jpeg(page.picture)

    def add(self, piece: tuple[Page, dict[str, object], bytes | None]) -> None:
        page, record, picture = piece
        name = self.free_name(page, self.folder, ".json")
        path = self.folder / f"{name}.json"
        if picture is None:
            source = page.picture.source.path
            assert source is not None
            record["imagePath"] = Path(os.path.relpath(source.absolute(), path.parent)).as_posix()
        else:
            write_bytes(path.with_suffix(".jpg"), picture)
            record["imagePath"] = path.with_suffix(".jpg").name
        write_text(path, labelme.as_text(record))


class YoloFiles(_Annotations):
    """yolo/ with data.yaml, train.txt, labels/NAME.txt, and images/NAME as links to the images or
    the frames themselves."""

    def __init__(self, folder: Path, *, detects: bool) -> None:
        super().__init__(folder, YOLO, detects=detects)
        self._list: GrowingFile | None = None

    def encode(self, page: Page) -> tuple[Page, str, bytes | None]:
        text = next(yolo.label_texts(_table(page), yolo.Counts()))
        return page, text, _jpeg(page.picture)

    def add(self, piece: tuple[Page, str, bytes | None]) -> None:
        page, text, picture = piece
        name = self.free_name(page, self.folder / "labels", ".txt")
        if self._list is None:
            assert isinstance(page.prediction, Detections)
            names = page.prediction.class_names
            write_text(self.folder / "data.yaml", yolo.description(names, PART))
            self._list = GrowingFile(self.folder / f"{PART}.txt")
        source = page.picture.source.path
        suffix = ".jpg" if picture is not None or source is None else source.suffix
        image = self.folder / "images" / f"{name}{suffix}"
        make_folder(image.parent)
        if picture is not None:
            write_bytes(image, picture)
        else:
            assert source is not None
            _link(image, source)
        write_text(self.folder / "labels" / f"{name}.txt", text)
        self._list.append(os.fsencode(yolo.listed_image(f"{name}{suffix}")))

    def close(self) -> None:
        if self._list is not None:
            self._list.close()


def _link(link: Path, image: Path) -> None:
    """A link to an image, or a copy where the system has no links."""
    try:
        link.symlink_to(os.path.relpath(image.absolute(), link.parent))
    except OSError:
        shutil.copyfile(image, link)


def _jpeg(picture: Picture) -> bytes | None:
    if picture.frame is None and picture.source.path is not None:
        return None
    frame = cv2.cvtColor(picture.whole(), cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def _table(page: Page) -> AnnotationTable:
    """The detections of one picture as annotations, with their scores and ids of tracks."""
    found = page.prediction
    assert isinstance(found, Detections)
    count, boxes = len(found), found.boxes.cpu().double().numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    codes = found.encoded_masks()
    outlines = (
        box_outlines(count)
        if codes is None
        else rle_outlines([code["counts"].encode() for code in codes])
    )
    none = np.zeros(count, np.bool_)
    extras = {"score": found.scores.cpu().numpy()}
    if found.track_ids is not None:
        extras[TRACK_ID] = found.track_ids.cpu().numpy()
    table = AnnotationTable(
        files=[page.picture.source.shown],
        class_names=list(found.class_names),
        category_ids=list(found.category_ids) or list(range(1, len(found.class_names) + 1)),
        image_ids=pack_ids([1]),
        file_of_image=np.zeros(1, np.int32),
        file_names=pack_names([page.picture.source.name]),
        sizes=np.array([page.picture.size], np.int32),
        image_of=np.zeros(count, np.int64),
        boxes_xywh=np.concatenate([boxes[:, :2], sides], axis=1),
        labels=found.labels.cpu().numpy(),
        areas=sides.prod(axis=1),
        crowd=none,
        difficult=none,
        ignored=none,
        annotation_ids=np.arange(1, count + 1),
        outlines=outlines,
        extras=extras,
    )
    check_classes(table)
    return table
