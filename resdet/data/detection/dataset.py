"""Detection data by path alone: images and their objects, ready for the model."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.detection.annotated import AnnotatedImages, read_images
from resdet.data.detection.checks import (
    check_images,
    check_presence,
    clip_boxes,
    find_targets,
    leave_out,
)
from resdet.data.detection.mixing import Others
from resdet.data.detection.placing import Objects
from resdet.data.detection.plausibility import check_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.data.detection.tiles import Tiles
from resdet.data.detection.transforms import Transform
from resdet.data.detection.unusable import no_images, no_objects, no_outlines
from resdet.data.fingerprint import file_bytes, hash_names
from resdet.data.looks import Looks
from resdet.data.names import Ids
from resdet.data.plausibility import Images, find_repeated
from resdet.files.findings import (
    DataError,
    Finding,
    log_findings,
    strict_error,
)
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import read_fast, read_image
from resdet.files.pixels import to_planes
from resdet.structures import Target

logger = logging.getLogger("resdet")


@dataclass
class Sample:
    """One image with its objects, after the transforms."""

    image: Tensor
    """(3, H, W) RGB, 0..255, uint8 or, resized as floats, float32."""
    target: Target
    original_size: tuple[int, int]
    """(height, width) of the file, in pixels."""
    path: str
    problem: str | None = None
    """Why the image can't be read, with its file; None if it can."""


class DetectionDataset(torch.utils.data.Dataset[Sample]):
    """Images and targets of a table: a view, of which forked workers share the arrays.

    Targets are float32 boxes clipped to their image; crowd regions, and boxes without area inside
    their image, are left out.

    Args:
        table: the annotations, which evaluation takes as they are.
        folders: the image folder of each annotation file.
        transform: `TrainTransform`, `TestTransform` or that of another task.
        keep_empty: keep images without targets.
        keep_difficult: make targets of objects that are marked as difficult too.
        mask_size: M of the M×M masks; None leaves masks out.
        seed: of all that is random in the transforms.
        max_pixels: larger images can't be read.
        findings: what was left out or repaired so far; gets what is left out of the targets.
    Raises:
        DataError: no image is left, or masks are wanted and no object has an outline.
    """

    def __init__(
        self,
        table: AnnotationTable,
        folders: Sequence[str],
        *,
        transform: Transform,
        findings: list[Finding],
        keep_empty: bool = True,
        keep_difficult: bool = False,
        mask_size: int | None = 112,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.table, self.folders, self.findings = table, folders, findings
        self.transform, self.mask_size, self.seed = transform, mask_size, seed
        self.keep_difficult, self.max_pixels = keep_difficult, max_pixels
        self.class_names, self.category_ids = table.class_names, table.category_ids
        self.left_out = np.zeros(0, np.int64)
        """`hash_names` of the images that `check_dataset` left out, as missing or broken."""
        self.tiles: Tiles | None = None
        """Where each image is a tile, see `cut_into_tiles`; None for whole images."""
        self.looks: Looks | None = None
        """(N,) of the images, if `check_dataset` decoded all."""
        self.with_outlines = mask_size is not None or transform.needs_outlines
        self.rows, self.kinds = find_targets(
            table, findings, masks=self.with_outlines, keep_difficult=keep_difficult
        )
        per_image = np.bincount(table.image_of[self.rows], minlength=len(table.image_ids))
        self.images = np.arange(len(per_image)) if keep_empty else np.flatnonzero(per_image)
        """(N,) their rows in the table."""
        if not len(self.images):
            raise self.no_objects()
        objects, usable = ~table.crowd, self.kinds[self.rows]
        if self.with_outlines and objects.any() and not usable.any():
            raise no_outlines(table, findings, for_head=mask_size is not None)
        self.starts = np.searchsorted(table.image_of[self.rows], self.images)
        self.stops = self.starts + per_image[self.images]
        self._log(int((per_image == 0).sum()), keep_empty)

    def no_objects(self) -> DataError:
        """The error of a set without any object to use, which names the cause."""
        return no_objects(self.table, self.findings, keep_difficult=self.keep_difficult)

    def _log(self, empty: int, keep_empty: bool) -> None:
        notes = [f"{empty} images without objects {'kept' if keep_empty else 'left out'}"]
        left_out = {"crowd regions": self.table.crowd}
        if not self.keep_difficult:
            left_out["difficult objects"] = self.table.difficult & ~self.table.crowd
        for name, objects in left_out.items():
            if count := int(np.isin(self.table.image_of[objects], self.images).sum()):
                notes.append(f"{count} {name} left out of the targets")
        logger.info(
            "%s: %d images, %d objects of %d classes; %s",
            self.table.source,
            len(self),
            len(self.rows),
            len(self.class_names),
            "; ".join(notes),
        )

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) height, width of each image, as the files state; of tiles their own."""
        return self.table.sizes[self.images] if self.tiles is None else self.tiles.sizes

    @property
    def untiled(self) -> "DetectionDataset":
        """The whole images of a data set of tiles; itself without tiles."""
        return self if self.tiles is None else self.tiles.untiled

    @property
    def target_boxes(self) -> NDArray[np.float64]:
        """(A, 4) xyxy of the targets, clipped to the whole images."""
        table = self.table
        return clip_boxes(table.boxes_xywh[self.rows], table.sizes[table.image_of[self.rows]])

    @property
    def object_areas(self) -> NDArray[np.float64]:
        """(A,) square pixels of the targets' boxes, as annotated."""
        areas: NDArray[np.float64] = self.table.boxes_xywh[self.rows, 2:].prod(axis=1)
        return areas

    @property
    def image_ids(self) -> Ids:
        """(N,) ids, unique over the files."""
        return self.table.image_ids.select(self.images)

    @property
    def objects_per_class(self) -> NDArray[np.int64]:
        """(K,) targets of each label."""
        return np.bincount(self.table.labels[self.rows], minlength=len(self.class_names))

    @property
    def image_of_object(self) -> NDArray[np.int64]:
        """(A,) position in this set of the image of each target."""
        return np.repeat(np.arange(len(self)), self.stops - self.starts)

    def image_name(self, index: int) -> str:
        """What messages call an image."""
        return self.table.image_name(int(self.images[index]))

    def located(self) -> Images:
        """Where the images are, to find those that are in two sets."""
        names = self.table.file_names
        return Images(
            self.table.source,
            self.folders,
            self.table.file_of_image[self.images],
            names if len(self) == len(names) else names.select(self.images),
            self.image_name,
            lambda row: self.path(row).open("rb"),
            lambda rows: file_bytes(self.path, rows),
        )

    def path(self, index: int) -> Path:
        """The image file."""
        image = int(self.images[index])
        return Path(self.folders[self.table.file_of_image[image]]) / self.table.file_names[image]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index); what is random in it depends on seed, epoch and index.

        Raises:
            DataError: the image can't be read, or does not have the size that its file states.
        """
        epoch, index = key
        return self.sample(index, self.read(index), epoch)

    def read(self, index: int) -> NDArray[np.uint8]:
        """The image (H, W, 3) RGB as it is in the file, upright; DataError as in `__getitem__`."""
        if self.tiles is not None:
            return self.tiles.read(index)
        path = self.path(index)
        decode = read_image if self.transform.exact else read_fast
        image = decode(path, self.max_pixels)
        self.check_size(index, image.shape[0], image.shape[1])
        return image

    def sample(self, index: int, image: NDArray[np.uint8], epoch: int = 0) -> Sample:
        """The sample of an image from `read`."""
        seed = np.random.SeedSequence((self.seed, epoch, index))
        result = self.transform(
            image,
            self._objects(index),
            mask_size=self.mask_size,
            seed=seed,
            others=Others(epoch, index, len(self), self._other),
        )
        target = Target(
            boxes=torch.from_numpy(result.boxes),
            labels=torch.from_numpy(result.labels),
            masks=None if result.masks is None else torch.from_numpy(result.masks),
            image_key=index,
            image_id=self.table.image_ids[int(self.images[index])],
            extra={key: _tensor(values) for key, values in result.extras.items()},
        )
        pixels = to_planes(result.image)
        return Sample(pixels, target, (image.shape[0], image.shape[1]), str(self.path(index)))

    def _other(self, index: int) -> tuple[NDArray[np.uint8], Objects] | None:
        """An image to mix with another; None if it can't be read."""
        try:
            return self.read(index), self._objects(index)
        except DataError:
            return None

    def unreadable(self, key: tuple[int, int], problem: str) -> Sample:
        """The sample that keeps the place of an image that can't be read: one black pixel without
        objects, which enlarges no batch."""
        index, none, size = key[1], self.rows[:0], self.mask_size
        extras = {name: _tensor(values[none]) for name, values in self.table.extras.items()}
        target = Target(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            masks=None if size is None else torch.zeros((0, size, size), dtype=torch.uint8),
            image_key=index,
            image_id=self.table.image_ids[int(self.images[index])],
            extra=extras,
        )
        black = torch.zeros((3, 1, 1), dtype=torch.uint8)
        return Sample(black, target, (1, 1), str(self.path(index)), problem)

    def _objects(self, index: int) -> Objects:
        """The targets of an image as they are annotated, boxes clipped."""
        table, rows = self.table, self.rows[self.starts[index] : self.stops[index]]
        outlines = None
        if self.with_outlines and table.outlines is not None:
            outlines = table.outlines.select(rows)
            outlines.kinds = self.kinds[rows]
            outlines.points = outlines.points.astype(np.float32)
        boxes = clip_boxes(table.boxes_xywh[rows], self.table.sizes[[self.images[index]]])
        extras = {key: values[rows] for key, values in table.extras.items()}
        objects = Objects(boxes.astype(np.float32), table.labels[rows], outlines, extras)
        return objects if self.tiles is None else self.tiles.cut(objects, index)

    def check_size(self, index: int, height: int, width: int) -> None:
        """DataError where an image that was read does not have the size that its file states."""
        row = int(self.images[index])
        stated_height, stated_width = self.table.sizes[row].tolist()
        if (stated_height, stated_width) == (height, width):
            return
        hint = "annotate the file that is there, or correct width and height"
        if (stated_height, stated_width) == (width, height):
            hint = "its EXIF orientation turns it; annotate it upright, or remove the orientation"
        raise DataError(
            f"{self.path(index)}: is {width}×{height} pixels, but {self.table.file_of(row)} gives "
            f"image {self.table.image_ids[row]!r} {stated_width}×{stated_height} (width×height); "
            f"{hint}"
        )


def read_dataset(
    images: str | Sequence[str],
    annotations: str | Sequence[str],
    *,
    transform: Transform,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    extras: Sequence[str] = (),
    keep_empty: bool = True,
    keep_difficult: bool = False,
    mask_size: int | None = 112,
    seed: int = 0,
    strict: bool = False,
    decode_all: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> DetectionDataset:
    """Reads annotation files and checks them and their images, once.

    Args: see `read_images`, `check_dataset` and `DetectionDataset`.
    Raises:
        DataError: files are missing or not in the format, categories do not agree, nothing is
            left; and with `strict` for every finding.
    """
    read = read_images(
        images,
        annotations,
        format=format,
        classes=classes,
        extras=extras,
        outlines=mask_size is not None or transform.needs_outlines,
        max_pixels=max_pixels,
    )
    return check_dataset(
        read,
        transform=transform,
        keep_empty=keep_empty,
        keep_difficult=keep_difficult,
        mask_size=mask_size,
        seed=seed,
        strict=strict,
        decode_all=decode_all,
    )


def check_dataset(
    read: AnnotatedImages,
    *,
    transform: Transform,
    keep_empty: bool = True,
    keep_difficult: bool = False,
    mask_size: int | None = 112,
    seed: int = 0,
    strict: bool = False,
    decode_all: bool = False,
    by_windows: bool = False,
) -> DetectionDataset:
    """The data set of annotated images, of which only those are left that can be used.

    Args:
        read: its findings get what is left out here.
        strict: raise an error for everything that would be left out or repaired.
        decode_all, by_windows: see `check_images`.
        The others: see `DetectionDataset`.
    Raises:
        DataError: nothing is left; and with `strict` for every finding.
    """
    folders, findings = read.folders, read.findings
    table = leave_out(read.table, read.left_out)
    table = check_presence(table, folders, findings)
    table, looks = check_images(
        *(table, folders, findings),
        decode_all=decode_all,
        max_pixels=read.max_pixels,
        by_windows=by_windows,
    )
    if not len(table.image_ids):
        raise no_images(read)
    check_annotations(table, findings)
    dataset = DetectionDataset(
        table,
        folders,
        transform=transform,
        findings=findings,
        keep_empty=keep_empty,
        keep_difficult=keep_difficult,
        mask_size=mask_size,
        seed=seed,
        max_pixels=read.max_pixels,
    )
    dataset.looks = None if looks is None else looks[dataset.images]
    if len(table.image_ids) < len(read.table.image_ids):
        every, kept = hash_names(read.table.file_names), hash_names(table.file_names)
        dataset.left_out = np.setdiff1d(every, kept)
    findings += find_repeated(dataset.located())
    if findings and strict:
        raise strict_error(findings)
    log_findings(findings)
    return dataset


def _tensor(values: NDArray[Any]) -> Tensor:
    """Fractions as float32, as the boxes are."""
    return torch.from_numpy(values.astype(np.float32) if values.dtype == np.float64 else values)
