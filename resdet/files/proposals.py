"""Proposals files: boxes per image and class that one model writes and another one reads.

An uncompressed npz with these arrays, for N images, P proposals and K classes:

    format       ()      int, 1
    class_names  (K,)    text
    image_ids    (N,)    int64 or text, each once
    image_sizes  (N, 2)  int32 height, width of the original image in pixels
    counts       (N,)    int64 proposals of each image
    boxes        (P, 4)  float32 xyxy in pixels of the original image, image after image
    scores       (P,)    float32
    labels       (P,)    int32 positions in class_names

The proposals of an image are in any order, of any classes. With 200 for each of the 544,546
training images of ImageNet that have boxes, a file takes 2.6 GB; the arrays are mapped, so that
processes share them and read what they use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.errors import UserError, command_line, first_few
from resdet.files.findings import DataError
from resdet.files.npz import Spool, map_npz, write_npz
from resdet.files.writing import WriteError, make_folder

FORMAT = 1
WHAT = "proposals"
COLUMNS: dict[str, tuple[str, int]] = {
    "class_names": ("U", 1),
    "image_ids": ("iuU", 1),
    "image_sizes": ("iu", 2),
    "counts": ("iu", 1),
    "boxes": ("f", 2),
    "scores": ("f", 1),
    "labels": ("iu", 1),
}
"""The kinds of type (numpy's letters) and the number of axes of each array."""
CHECKED = 4096
"""Images checked at a time."""


class ProposalFile:
    """One file, checked.

    Raises:
        DataError: the file is missing, damaged, of another format, or has impossible values.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        """`check` looks at every box, which reads the whole file once."""
        self.path = str(path)
        if Path(path).is_dir():
            raise self._no_proposals("is a folder")
        arrays = map_npz(path, WHAT)
        self._check_columns(arrays)
        self.class_names: list[str] = arrays["class_names"].tolist()
        self.image_ids = arrays["image_ids"]
        """(N,) int64 or text."""
        self.sizes = np.asarray(arrays["image_sizes"], np.int64)
        """(N, 2) height, width in pixels."""
        counts = np.asarray(arrays["counts"], np.int64)
        self.boxes, self.scores, self.labels = (
            arrays[key] for key in ("boxes", "scores", "labels")
        )
        if (counts < 0).any() or sum(counts.tolist()) != len(self.boxes):
            raise self._error(f"counts do not add up to its {len(self.boxes)} boxes")
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        """(N + 1,) first proposal of each image."""
        if check:
            self._check_values()

    def __len__(self) -> int:
        return len(self.image_ids)

    def _no_proposals(self, what: str) -> DataError:
        command = f"{command_line('predict')} RPN_RUN --proposals FILE.npz"
        return DataError(f"{self.path}: {what}; give a file that {command} writes")

    def _error(self, what: str) -> DataError:
        command = f"{command_line('predict')} RUN --proposals {Path(self.path).name}"
        return DataError(f"{self.path}: {what}; write it again, as with {command}")

    def _check_columns(self, arrays: dict[str, NDArray[Any]]) -> None:
        version = arrays.get("format")
        if version is None or version.shape != () or version.dtype.kind not in "iu":
            raise self._no_proposals("not a proposals file: it has no array `format`")
        if int(version) != FORMAT:
            raise self._error(f"has format {int(version)}, and this resdet reads {FORMAT}")
        missing = [key for key in COLUMNS if key not in arrays]
        if missing:
            raise self._error(f"lacks {', '.join(missing)}")
        for key, (kinds, axes) in COLUMNS.items():
            values = arrays[key]
            if values.dtype.kind not in kinds or values.ndim != axes:
                raise self._error(f"{key} is {values.dtype} of shape {values.shape}")
        images, proposals = len(arrays["image_ids"]), len(arrays["boxes"])
        for key, shape in (
            ("image_sizes", (images, 2)),
            ("counts", (images,)),
            ("boxes", (proposals, 4)),
            ("scores", (proposals,)),
            ("labels", (proposals,)),
        ):
            if arrays[key].shape != shape:
                raise self._error(f"{key} has shape {arrays[key].shape}, expected {shape}")

    def _check_values(self) -> None:
        ids, names = np.asarray(self.image_ids), self.class_names
        if len(np.unique(ids)) < len(ids):
            raise self._error("an image id appears twice")
        if len(set(names)) < len(names):
            raise self._error("a class name appears twice")
        if (self.sizes < 1).any():
            row = int(np.flatnonzero((self.sizes < 1).any(axis=1))[0])
            raise self._error(f"image {ids[row].item()!r} has no size")
        for start in range(0, len(ids), CHECKED):
            stop = min(start + CHECKED, len(ids))
            self._check_rows(start, stop)

    def _check_rows(self, start: int, stop: int) -> None:
        first, last = self.offsets[start], self.offsets[stop]
        boxes = np.asarray(self.boxes[first:last], np.float64)
        labels, scores = self.labels[first:last], self.scores[first:last]
        image_of = np.repeat(np.arange(start, stop), np.diff(self.offsets[start : stop + 1]))
        # NaN compares as false, and then is not inside
        limits = self.sizes[image_of][:, ::-1]
        inside = (
            (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
            & (boxes[:, :2] > -1).all(axis=1)
            & (boxes[:, 2:] < limits + 1).all(axis=1)
        )
        for good, what in (
            (inside, "has a box that is empty or outside the image"),
            (np.isfinite(scores), "has a score that is not a number"),
            ((labels >= 0) & (labels < len(self.class_names)), "has a label without a class"),
        ):
            if not good.all():
                row = int(image_of[int(np.flatnonzero(~good)[0])])
                raise self._error(f"image {self.image_ids[row].item()!r} {what}")

    def image(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes (n, 4) xyxy in pixels inside the image, scores (n,) and labels (n,) of an image."""
        some = slice(self.offsets[row], self.offsets[row + 1])
        height, width = self.sizes[row].tolist()
        boxes = np.array(self.boxes[some], np.float32)
        np.clip(boxes, 0, np.array([width, height, width, height], np.float32), out=boxes)
        return boxes, np.array(self.scores[some], np.float32), np.array(self.labels[some], np.int64)

    def find(self, image_ids: Sequence[int | str]) -> NDArray[np.int64]:
        """(M,) the row of each image, −1 where the file does not have it."""
        own = np.asarray(self.image_ids)
        if own.dtype.kind == "U":
            wanted = np.array([str(image_id) for image_id in image_ids], np.str_)
        elif all(isinstance(image_id, int) for image_id in image_ids):
            wanted = np.array(image_ids, np.int64)
        else:
            return np.full(len(image_ids), -1)
        if not len(own):
            return np.full(len(image_ids), -1)
        order = np.argsort(own, kind="stable")
        places = order[np.searchsorted(own[order], wanted).clip(max=len(own) - 1)]
        return np.where(own[places] == wanted, places, -1)


class Proposals:
    """The proposals of the images of a data set, from one or more files.

    Args:
        paths: the files. Each image is in one of them.
        image_ids: N ids, in the order of the data set.
        sizes: (N, 2) height, width of the images in pixels.
        class_names: K names by label of the data set.
        check: look at every box of the files.
    Raises:
        DataError: a file is not good, an image is in none or its size differs, a class is unknown.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        image_ids: Sequence[int | str],
        sizes: NDArray[np.integer[Any]],
        class_names: Sequence[str],
        *,
        check: bool = True,
    ) -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self.files = [ProposalFile(path, check=check) for path in given]
        self.class_names = list(class_names)
        found = np.stack([file.find(image_ids) for file in self.files])
        self._file_of = (found >= 0).argmax(axis=0)
        """(N,) the first file that has the image."""
        self._rows = found[self._file_of, np.arange(len(image_ids))]
        """(N,) its row there."""
        names = ", ".join(file.path for file in self.files)
        absent = np.flatnonzero(self._rows < 0)
        if len(absent):
            some = first_few([repr(image_ids[row]) for row in absent.tolist()], 3)
            raise DataError(
                f"{names}: no proposals of {len(absent)} image(s) of the data: {some}; write them "
                f"with {command_line('predict')} RUN --proposals"
            )
        self._labels = [self._translate(file) for file in self.files]
        for number, file in enumerate(self.files):
            rows = np.flatnonzero(self._file_of == number)
            wrong = rows[(file.sizes[self._rows[rows]] != sizes[rows]).any(axis=1)]
            for row in wrong[:1].tolist():
                own, other = sizes[row].tolist(), file.sizes[self._rows[row]].tolist()
                raise DataError(
                    f"{file.path}: image {image_ids[row]!r}: is {other[1]}×{other[0]} pixels "
                    f"there, and {own[1]}×{own[0]} in the data; write the file from these images"
                )

    def _translate(self, file: ProposalFile) -> NDArray[np.int64]:
        """(K of the file,) the label in the data set of each of the file's classes, −1 if none."""
        known = {name: label for label, name in enumerate(self.class_names)}
        labels = np.array([known.get(name, -1) for name in file.class_names], np.int64)
        if not (labels >= 0).any():
            raise DataError(
                f"{file.path}: its classes are {first_few(file.class_names, 4)}, those of the "
                f"data {first_few(self.class_names, 4)}; write the file with a model of these "
                "classes"
            )
        return labels

    def __len__(self) -> int:
        return len(self._rows)

    def of_class(
        self, row: int, label: int, limit: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Boxes (n, 4) xyxy in pixels and scores (n,) of an image's proposals of one class, best
        first, `limit` of them at most; n may be 0."""
        number = int(self._file_of[row])
        boxes, scores, labels = self.files[number].image(int(self._rows[row]))
        own = np.flatnonzero(self._labels[number][labels] == label)
        own = own[np.argsort(-scores[own], kind="stable")][:limit]
        return boxes[own], scores[own]


class ProposalWriter:
    """Writes a proposals file image by image; it takes its name when the block ends without error.

    Boxes and scores go to temporary files in the same folder, so that memory does not grow.

        with ProposalWriter(path, class_names) as writer:
            writer.add(image_id, (height, width), boxes, scores, labels)

    Raises:
        UserError: the folder or the disk refuses, or an image appears twice.
    """

    def __init__(self, path: str | Path, class_names: Sequence[str]) -> None:
        self.path, self.class_names = Path(path), list(class_names)
        self._ids: dict[int | str, None] = {}
        self._sizes: list[tuple[int, int]] = []
        self._counts: list[int] = []
        make_folder(self.path.parent, "--proposals")
        try:
            self._boxes, self._scores, self._labels = (
                Spool(self.path.parent, np.float32, 4),
                Spool(self.path.parent, np.float32),
                Spool(self.path.parent, np.int32),
            )
        except OSError as error:
            raise WriteError(self.path, error) from None

    def __enter__(self) -> ProposalWriter:
        return self

    def add(
        self,
        image_id: int | str,
        size: tuple[int, int],
        boxes: NDArray[Any],
        scores: NDArray[Any],
        labels: NDArray[Any],
    ) -> None:
        """Adds an image of `size` (height, width): boxes (n, 4) xyxy in its pixels, scores (n,) and
        labels (n,). Boxes are clipped to the image, and those without area left out.

        UserError where a box or score is not a number.
        """
        if image_id in self._ids:
            raise UserError(f"{self.path}: image {image_id!r} appears twice; name each image once")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise UserError(
                f"{self.path}: image {image_id!r}: the model gives boxes or scores that are not "
                "numbers; use another checkpoint"
            )
        height, width = size
        clipped = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
        keep = (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        try:
            self._boxes.extend(clipped[keep])
            self._scores.extend(scores[keep])
            self._labels.extend(labels[keep])
        except OSError as error:
            raise WriteError(self.path, error) from None
        self._ids[image_id] = None
        self._sizes.append((int(height), int(width)))
        self._counts.append(int(keep.sum()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spools = (self._boxes, self._scores, self._labels)
        try:
            if kind is None:
                self._finish()
        except OSError as refused:
            raise WriteError(self.path, refused) from None
        finally:
            for spool in spools:
                spool.close()

    def _finish(self) -> None:
        ids: list[Any] = list(self._ids)
        has_text = any(isinstance(each, str) for each in ids)
        write_npz(
            self.path,
            {
                "format": np.array(FORMAT, np.int64),
                "class_names": np.array(self.class_names, np.str_),
                "image_ids": np.array([str(each) for each in ids], np.str_)
                if has_text
                else np.array(ids, np.int64),
                "image_sizes": np.array(self._sizes, np.int32).reshape(-1, 2),
                "counts": np.array(self._counts, np.int64),
                "boxes": self._boxes,
                "scores": self._scores,
                "labels": self._labels,
            },
        )
