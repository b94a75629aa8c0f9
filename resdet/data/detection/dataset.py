"""COCO data by path alone: images and their objects, ready for the model."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

from resdet.data.detection.outlines import POLYGON
from resdet.data.detection.readers.coco_json import Categories, ImageFolder, read_coco_json
from resdet.data.detection.readers.tables import (
    BOX_REPAIRED,
    OUTLINE_REPAIRED,
    CocoTables,
    TableBuilder,
)
from resdet.data.detection.transforms import Objects, Transformed
from resdet.files.findings import (
    DataError,
    Finding,
    log_findings,
    missing_data_message,
    strict_error,
)
from resdet.files.images import image_problems, read_fast, read_image
from resdet.files.pixels import to_planes
from resdet.files.rle import to_rle
from resdet.structures import Target

logger = logging.getLogger("resdet")


HEADERS_AT_START = 20_000
"""Larger sets are trusted until a file is read: 118,000 headers on a cold disk take minutes."""

BAD_IMAGE = "it is left out; replace the file, or correct its width and height"


class Transform(Protocol):
    """`TrainTransform` or `TestTransform`."""

    exact: bool
    """Whether images are decoded by Pillow on every machine, or by what is fastest."""

    def __call__(
        self,
        image: NDArray[np.uint8],
        objects: Objects,
        *,
        mask_size: int | None,
        seed: np.random.SeedSequence,
    ) -> Transformed: ...


@dataclass
class Sample:
    """One image with its objects, after the transforms."""

    image: Tensor
    """(3, H, W) RGB, 0..255, uint8 or, resized as floats, float32."""
    target: Target
    original_size: tuple[int, int]
    """(height, width) of the file, in pixels."""
    path: str


class DetectionDataset(torch.utils.data.Dataset[Sample]):
    """Images and objects of COCO files.

    Annotations are kept in flat arrays, which forked workers share. Labels 0..K-1 follow the
    category ids of the first file, or `classes`.

    Args:
        images: an image folder, or several; annotations: COCO files, paired with them by position.
        transform: `TrainTransform` or `TestTransform`.
        classes: category names to keep, in label order; None keeps all.
        keep_empty: keep images without objects.
        mask_size: M of the M×M masks; None leaves masks out.
        drop_crowd: leave crowd regions out of the targets; `ground_truth` always has them.
        seed: of all that is random in the transforms.
        strict: make an error of all that would be dropped or repaired.
        decode_all: read every image whole at the start; otherwise their headers, and those only of
            sets of at most `HEADERS_AT_START` images.
    Raises:
        DataError: files are missing or no COCO, categories do not agree, nothing is left; and with
            `strict` for every finding.
    """

    def __init__(
        self,
        images: str | Sequence[str],
        annotations: str | Sequence[str],
        *,
        transform: Transform,
        classes: Sequence[str] | None = None,
        keep_empty: bool = True,
        mask_size: int | None = 112,
        drop_crowd: bool = True,
        seed: int = 0,
        strict: bool = False,
        decode_all: bool = False,
    ) -> None:
        self.folders, self.files = _paired(images, annotations)
        self.transform = transform
        self.mask_size = mask_size
        self.drop_crowd = drop_crowd
        self.seed = seed
        missing = [p for p in (*self.folders, *self.files) if not Path(p).exists()]
        if missing:
            raise DataError(missing_data_message(missing))
        categories = Categories(classes)
        builder = TableBuilder(
            categories, want_masks=mask_size is not None, keep_crowd=not drop_crowd
        )
        for folder, file in zip(self.folders, self.files, strict=True):
            data = read_coco_json(file)
            categories.add_file(file, data["categories"])
            builder.add_file(file, data, ImageFolder(folder))
            del data
        self.class_names, self.category_ids = categories.names, categories.ids
        self.tables = builder.finish()
        self.findings: list[Finding] = builder.findings + self._drop_bad_images(decode_all)
        if self.findings and strict:
            raise strict_error(self.findings)
        log_findings(self.findings)
        self._arrange(keep_empty, builder.other_classes)

    def _drop_bad_images(self, decode_all: bool) -> list[Finding]:
        """Leaves out the images that can't be read or have not the size their file says."""
        tables = self.tables
        if not decode_all and len(tables.names) > HEADERS_AT_START:
            return []
        paths = [self.path(row) for row in range(len(tables.names))]
        sizes = [(height, width) for height, width in tables.sizes.tolist()]
        bad = image_problems(paths, sizes, decode=decode_all)
        found = [
            Finding(
                self.files[tables.file_of_image[row]],
                f"image {tables.image_ids[row]!r} ({paths[row]})",
                what,
                BAD_IMAGE,
            )
            for row, what in bad.items()
        ]
        if bad:
            tables.keep_images(~np.isin(np.arange(len(paths)), list(bad)))
        return found

    def _arrange(self, keep_empty: bool, other_classes: int) -> None:
        """Orders annotations by image, crowd last, and leaves images without objects out."""
        tables = self.tables
        files = ", ".join(self.files)
        if not tables.image_ids and any(finding.remedy == BAD_IMAGE for finding in self.findings):
            raise strict_error(self.findings)
        if not tables.image_ids:
            raise DataError(
                f"{files}: none of the images is in {', '.join(self.folders)}; check that folders "
                "and annotation files belong together"
            )
        is_target = ~tables.crowd if self.drop_crowd else np.ones_like(tables.crowd)
        per_image = np.bincount(tables.image_of[is_target], minlength=len(tables.image_ids))
        empty = int((per_image == 0).sum())
        if not keep_empty:
            tables.keep_images(per_image > 0)
        if not tables.image_ids:
            raise DataError(
                f"{files}: no image has an object; set data.keep_empty=true or annotate"
            )
        self._check_masks(files)
        crowd_last = tables.crowd if self.drop_crowd else np.zeros_like(tables.crowd)
        order = np.lexsort((tables.positions, crowd_last, tables.image_of))
        tables.keep_annotations(order)
        count = len(tables.image_ids)
        self.starts = np.searchsorted(tables.image_of, np.arange(count + 1))
        is_target = ~tables.crowd if self.drop_crowd else np.ones_like(tables.crowd)
        self.stops = self.starts[:-1] + np.bincount(tables.image_of[is_target], minlength=count)
        notes = [f"{empty} images without objects {'kept' if keep_empty else 'left out'}"]
        if tables.crowd.any():
            notes.append(
                f"{int(tables.crowd.sum())} crowd regions "
                f"{'left out of the targets' if self.drop_crowd else 'kept as objects'}"
            )
        if other_classes:
            notes.append(f"{other_classes} objects of other classes left out")
        logger.info(
            "%s: %d images, %d objects of %d classes; %s",
            files,
            count,
            int((self.stops - self.starts[:-1]).sum()),
            len(self.class_names),
            "; ".join(notes),
        )

    def _check_masks(self, files: str) -> None:
        outlines = self.tables.outlines
        targets = ~self.tables.crowd
        if outlines is not None and targets.any() and not outlines.kinds[targets].any():
            raise DataError(
                f"{files}: no object has a segmentation, so masks can't be trained; "
                "set model.roi.mask_head=null to train boxes only"
            )

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) height, width of each image, as the files say."""
        return self.tables.sizes

    @property
    def image_ids(self) -> list[int | str]:
        """(N,) ids, unique over the files."""
        return self.tables.image_ids

    @property
    def objects_per_class(self) -> NDArray[np.int64]:
        """(K,) objects of each label; crowd regions that are no targets are not counted."""
        is_target = ~self.tables.crowd if self.drop_crowd else np.ones_like(self.tables.crowd)
        return np.bincount(self.tables.labels[is_target], minlength=len(self.class_names))

    def path(self, index: int) -> Path:
        """The image file."""
        folder = self.folders[self.tables.file_of_image[index]]
        return Path(folder) / self.tables.names[index]

    def __len__(self) -> int:
        return len(self.tables.image_ids)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index); what is random in it depends on seed, epoch and index.

        Raises:
            DataError: the image can't be read, or has not the size that its file says.
        """
        epoch, index = key
        path = self.path(index)
        image = read_image(path) if self.transform.exact else read_fast(path)
        self._check_size(index, image.shape[0], image.shape[1])
        rows = np.arange(self.starts[index], self.stops[index])
        outlines = self.tables.outlines
        objects = Objects(
            self.tables.boxes[rows],
            self.tables.labels[rows],
            None if outlines is None else outlines.select(rows),
        )
        seed = np.random.SeedSequence((self.seed, epoch, index))
        result = self.transform(image, objects, mask_size=self.mask_size, seed=seed)
        target = Target(
            boxes=torch.from_numpy(result.boxes),
            labels=torch.from_numpy(result.labels),
            masks=None if result.masks is None else torch.from_numpy(result.masks),
            image_key=index,
            image_id=self.image_ids[index],
        )
        pixels = to_planes(result.image)
        return Sample(pixels, target, (image.shape[0], image.shape[1]), str(path))

    def _check_size(self, index: int, height: int, width: int) -> None:
        stated_height, stated_width = self.sizes[index].tolist()
        if (stated_height, stated_width) == (height, width):
            return
        file = self.files[self.tables.file_of_image[index]]
        hint = "annotate the file that is there, or correct width and height"
        if (stated_height, stated_width) == (width, height):
            hint = "its EXIF orientation turns it; annotate it upright, or remove the orientation"
        raise DataError(
            f"{self.path(index)}: is {width}×{height} pixels, but {file} gives image "
            f"{self.image_ids[index]!r} {stated_width}×{stated_height} (width×height); {hint}"
        )

    def ground_truth(self) -> dict[str, Any]:
        """A COCO dict of the kept images, annotations (crowd too) and categories.

        The annotation files are read again for it, so that nothing of them is held in memory; ids
        are unique over the files, category ids are the first file's, and areas are filled in.
        """
        tables = self.tables
        annotations: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        files = tables.file_of_image[tables.image_of]
        for number, file in enumerate(self.files):
            data = read_coco_json(file)
            own = {(entry.get("id"), entry.get("file_name")): entry for entry in data["images"]}
            for row in np.flatnonzero(tables.file_of_image == number).tolist():
                height, width = tables.sizes[row].tolist()
                raw = own.get((tables.image_keys[row], tables.names[row]), {})
                changes = {"id": tables.image_ids[row], "height": height, "width": width}
                images.append({**raw, **changes})
            for row in np.flatnonzero(files == number).tolist():
                raw = data["annotations"][tables.positions[row]]
                annotations.append(_evaluated(tables, row, raw, self.category_ids))
        categories = [
            {"id": key, "name": name}
            for key, name in zip(self.category_ids, self.class_names, strict=True)
        ]
        return {"images": images, "annotations": annotations, "categories": categories}


def _paired(
    images: str | Sequence[str], annotations: str | Sequence[str]
) -> tuple[list[str], list[str]]:
    folders = [str(images)] if isinstance(images, (str, Path)) else [str(each) for each in images]
    files = (
        [str(annotations)]
        if isinstance(annotations, (str, Path))
        else [str(each) for each in annotations]
    )
    if len(folders) != len(files) or not files:
        raise DataError(
            f"{len(folders)} image folder(s) and {len(files)} annotation file(s): they are paired "
            "by position, so give as many of one as of the other (a folder may be named twice)"
        )
    return folders, files


def _evaluated(
    tables: CocoTables, row: int, raw: dict[str, Any], category_ids: list[int]
) -> dict[str, Any]:
    """One annotation as evaluators need it: the file's numbers where they are right."""
    x0, y0, x1, y1 = (float(value) for value in tables.boxes[row])
    height, width = tables.sizes[tables.image_of[row]].tolist()
    box = raw.get("bbox")
    if tables.repairs[row] & BOX_REPAIRED or box is None:
        box = [x0, y0, x1 - x0, y1 - y0]
    segmentation = raw.get("segmentation")
    if tables.repairs[row] & OUTLINE_REPAIRED:
        segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
        if tables.outlines is not None and tables.outlines.kinds[row] == POLYGON:
            segmentation = [p.reshape(-1).tolist() for p in tables.outlines.polygons(row)]
    area = raw.get("area")
    if not isinstance(area, (int, float)) or not np.isfinite(area):
        area = box[2] * box[3]
        if segmentation and tables.outlines is not None:
            item = f"annotation {int(tables.annotation_ids[row])}"
            area = float(coco_mask.area(to_rle(segmentation, (height, width), item)))
    annotation = {
        "id": int(tables.annotation_ids[row]),
        "image_id": tables.image_ids[tables.image_of[row]],
        "category_id": category_ids[tables.labels[row]],
        "bbox": [float(value) for value in box],
        "area": area,
        "iscrowd": int(tables.crowd[row]),
    }
    if segmentation:
        annotation["segmentation"] = segmentation
    return annotation
