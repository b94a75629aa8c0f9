"""Labelled images on disk in any layout: the data set of a classification run."""

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.data.classification.folder import has_folders, loose_images, read_class_folders
from resdet.data.classification.imagenet import read_flat_images
from resdet.data.classification.samples import BROKEN, ClassificationSample, Source
from resdet.data.classification.shards import find_shards, read_shards
from resdet.data.classification.tables import read_table
from resdet.data.classification.transforms import (
    ClassificationTransform,
    center_crop,
)
from resdet.data.fingerprint import (
    Fingerprint,
    as_words,
    hash_names,
    hash_texts,
    mix,
    sampled_rows,
)
from resdet.data.looks import Looks, look_at, look_at_all
from resdet.data.plausibility import check_class_names
from resdet.errors import first_few
from resdet.files.findings import (
    SHOWN,
    DataError,
    Finding,
    log_findings,
    missing_images_error,
    strict_error,
)
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import EncodedImage, check_image, unread

logger = logging.getLogger("resdet")

Format = Literal["auto", "folder", "shards"]

HEADERS_AT_START = 20_000
"""Larger sets are not checked at the start: a million headers on a cold disk take an hour."""

MEAN_IMAGES = 10_000
"""Images in a measured mean: a pixel of deviation 60 is then known to .6 levels."""

MEAN_CHUNK = 256
"""Images of a mean that are in memory at the same time."""

BROKEN_REMEDY = "it is left out"


class ClassificationDataset(torch.utils.data.Dataset[ClassificationSample]):
    """Labelled images.

    An image that can't be read is reported and never replaced: at the start it is left out as a
    finding, later its place in a batch has no weight.

    Args:
        source: where they are stored.
        transform: `ClassificationTrainTransform` or `ClassificationTestTransform`.
        seed: of all that is random in the transform.
        strict: turn findings into an error.
        max_pixels: larger images can't be read.
        decode_all: decode every image at the start; otherwise only read their headers, in sets of
            at most `HEADERS_AT_START` images.
        left_out: `hash_names` of the images that a resumed run left out at its start.
    Raises:
        DataError: no image can be read; with `strict`, there is any finding.
    """

    def __init__(
        self,
        source: Source,
        *,
        transform: ClassificationTransform,
        seed: int = 0,
        strict: bool = False,
        decode_all: bool = False,
        max_pixels: int = MAX_PIXELS,
        left_out: NDArray[np.int64] | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.seed = seed
        self.max_pixels = max_pixels
        self.broken: list[str] = []
        """Names of the images that were left out at the start because they can't be read."""
        self.looks: Looks | None = None
        """(N,) of the images, with `decode_all`."""
        every = source.names
        self._keep_left_out(left_out)
        self.findings = source.findings + self._leave_out_broken(decode_all)
        per_class = np.bincount(source.labels, minlength=len(source.class_names))
        check_class_names(str(source.root), source.class_names, per_class, self.findings)
        self.left_out = np.zeros(0, np.int64)
        """`hash_names` of the images that were left out at the start."""
        if len(source.names) < len(every):
            self.left_out = np.setdiff1d(hash_names(every), hash_names(source.names))
        if self.findings and (strict or not len(self)):
            raise strict_error(self.findings)
        log_findings(self.findings)

    def _keep_left_out(self, left_out: NDArray[np.int64] | None) -> None:
        """Leave out what a resumed run left out at its start, even if it was repaired since."""
        if left_out is None or not len(left_out):
            return
        out = np.isin(hash_names(self.source.names), left_out)
        self.broken = [self.name(row) for row in np.flatnonzero(out).tolist()]
        self.source.keep(np.flatnonzero(~out))
        logger.info(
            "%s: %d image(s) were left out when this run started, and stay so (%s); a new run "
            "takes those that have been repaired",
            self.source.root,
            len(self.broken),
            first_few(self.broken, SHOWN),
        )

    def _leave_out_broken(self, decode_all: bool) -> list[Finding]:
        if not decode_all and len(self) > HEADERS_AT_START:
            return []

        def look(index: int) -> tuple[Any, str | None]:
            name, found = self.name(index), None
            try:
                if decode_all:
                    found = look_at(self.encoded(index))
                else:
                    with self._open(index) as file:
                        check_image(file, name, whole=False, max_pixels=self.max_pixels)
            except DataError as error:
                return None, unread(error, name)
            return found, None

        looks, problems = look_at_all(len(self), look, str(self.source.root))
        self.looks = looks if decode_all else None
        if not problems:
            return []
        names = [self.name(row) for row in problems]
        folder = os.path.commonpath([Path(name).parent for name in names])
        self.broken += names
        kept = np.setdiff1d(np.arange(len(self)), list(problems))
        self.source.keep(kept)
        self.looks = looks[kept] if decode_all else None
        return [
            Finding(folder, os.path.relpath(name, folder), what, BROKEN_REMEDY)
            for name, what in zip(names, problems.values(), strict=True)
        ]

    @property
    def class_names(self) -> list[str]:
        """K names, by label."""
        return self.source.class_names

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) int64, 0..K-1."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source.labels)

    def name(self, index: int) -> str:
        """The image file, or its shard and name."""
        return self.source.name(index)

    def _open(self, index: int) -> BinaryIO:
        try:
            return self.source.open(index)
        except FileNotFoundError as error:
            raise DataError(f"{self.name(index)}: the image file no longer exists") from error
        except OSError as error:
            raise DataError(f"{self.name(index)}: can't be read ({error.strerror})") from error

    def encoded(self, index: int) -> EncodedImage:
        """An image's bytes and size.

        Raises:
            DataError: the file is missing, or its header can't be read.
        """
        with self._open(index) as file:
            try:
                data = file.read()
            except OSError as error:
                raise DataError(f"{self.name(index)}: can't be read ({error.strerror})") from error
        return EncodedImage(data, self.name(index), self.max_pixels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, upright, decoded by Pillow, without transforms.

        Raises:
            DataError: the file is missing or damaged.
        """
        return self.encoded(index).pixels()

    def __getitem__(self, key: tuple[int, int]) -> ClassificationSample:
        """The sample of (epoch, index); its randomness depends on seed, epoch and index alone.

        Raises:
            DataError: the image can't be read.
        """
        epoch, index = key
        seed = np.random.SeedSequence((self.seed, epoch, index))
        image = self.transform(self.encoded(index), epoch=epoch, seed=seed)
        label = int(self.labels[index])
        return ClassificationSample(image, label, index, self.name(index), None, epoch)

    def unreadable(self, key: tuple[int, int], problem: str) -> ClassificationSample:
        """The sample that keeps the place of an image that can't be read: a black one."""
        epoch, index = key
        side = self.transform.side(epoch)
        black = torch.zeros((3, side, side), dtype=torch.uint8)
        return ClassificationSample(black, BROKEN, index, self.name(index), problem, epoch)

    def fingerprint(self) -> Fingerprint:
        """Of names, labels and file sizes; it does not read pixels."""
        rows = sampled_rows(len(self))
        return Fingerprint(
            classes=hash_texts(self.class_names),
            names=hash_names(self.source.names),
            annotations=mix(as_words(self.labels)).view(np.int64),
            files=self.source.file_bytes(rows),
            left_out=self.left_out,
        )

    def digest(self) -> str:
        """The fingerprint in checkpoints of 0.1.0: of names and labels."""
        digest = hashlib.sha256("\n".join(self.class_names).encode("utf-8", "surrogateescape"))
        digest.update(self.labels.tobytes())
        digest.update(self.source.names.text.tobytes())
        digest.update(self.source.names.ends.tobytes())
        return f"{len(self)} images, {digest.hexdigest()[:16]}"

    def pixel_mean(self) -> Tensor:
        """Mean of each pixel, (3, S, S) float32 in 0..255, of images resized to S and cropped.

        For large sets it is measured on `MEAN_IMAGES` evenly spaced images.
        """
        side = self.transform.side(0)
        count = min(len(self), MEAN_IMAGES)
        rows = np.linspace(0, len(self) - 1, count).round().astype(int).tolist()

        def square(row: int) -> NDArray[np.uint8] | None:
            try:
                return center_crop(self.read(row), side, side)
            except DataError:
                return None  # reported when it is loaded

        total = np.zeros((side, side, 3), np.int64)
        read = 0
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for first in range(0, count, MEAN_CHUNK):
                for pixels in pool.map(square, rows[first : first + MEAN_CHUNK]):
                    if pixels is not None:
                        total += pixels
                        read += 1
        if not read:
            raise DataError(f"{self.name(0)}: neither this image nor any other one can be read")
        return torch.from_numpy(total.transpose(2, 0, 1) / read).float()


def open_images(
    root: str | Path,
    *,
    transform: ClassificationTransform,
    format: Format = "auto",
    ground_truth: str | None = None,
    table: str | None = None,
    classes: Sequence[str] | None = None,
    train_classes: Sequence[str] | None = None,
    seed: int = 0,
    strict: bool = False,
    decode_all: bool = False,
    max_pixels: int = MAX_PIXELS,
    left_out: NDArray[np.int64] | None = None,
) -> ClassificationDataset:
    """The images of a folder: class folders, ImageNet's flat val/, or tar shards; or of a table.

    Args:
        table: a CSV file, or parquet files by a path or a pattern; `root` is then the folder that
            their paths start at.
        format: auto takes shards if there is a *.tar.
        ground_truth: see `read_flat_images`; None searches for it.
        classes, train_classes: see `label_order`.
        transform, seed, strict, decode_all, max_pixels, left_out:
            see `ClassificationDataset`.
    Raises:
        DataError: the folder is missing or has none of these; and as the readers.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise missing_images_error(folder)
    source: Source
    if table is not None:
        source = read_table(table, folder, classes=classes, train_classes=train_classes)
    elif format == "shards" or (format == "auto" and find_shards(folder)):
        if ground_truth is not None:
            raise DataError(
                f"{folder}: ground_truth ({ground_truth}) is for a flat folder of images, and this "
                "has tar shards; leave it out, or set data.format=folder"
            )
        source = read_shards(folder, classes=classes, train_classes=train_classes)
    elif ground_truth is not None or (loose_images(folder) and not has_folders(folder)):
        source = read_flat_images(
            folder, ground_truth=ground_truth, classes=classes, train_classes=train_classes
        )
    else:
        source = read_class_folders(folder, classes=classes, train_classes=train_classes)
    return ClassificationDataset(
        source,
        transform=transform,
        seed=seed,
        strict=strict,
        decode_all=decode_all,
        max_pixels=max_pixels,
        left_out=left_out,
    )
