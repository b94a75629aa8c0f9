"""albumentations by name and arguments, checked when built; boxes, labels and masks follow."""

from __future__ import annotations

import inspect
import logging
import os
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resdet.data.detection.outlines import Affine, Outlines, rasterise, rle_outlines
from resdet.errors import UserError, did_you_mean
from resdet.files.findings import DataError

if TYPE_CHECKING:
    import albumentations as A

logger = logging.getLogger("resdet")

KEY = "data.augment.albumentations"

COMPOSED = ("OneOf", "SomeOf", "RandomOrder", "Sequential")
"""What takes `transforms`, a list of its own."""


class Pipeline:
    """Transforms of albumentations, in order, on an image as it was read.

    Photometric transforms (ImageOnlyTransform) change pixels only. As soon as a spatial one is
    among them, outlines become dense masks of the whole image and are encoded again, which costs
    tens of milliseconds per image; boxes then are those of the masks. Composed transforms (OneOf,
    SomeOf, Sequential …) take `transforms`, a list of the same form.

    Args:
        entries: {name: class name, arguments…} each.
    Raises:
        DataError: an unknown name or argument, a wrong value, or a transform that can't work here.
    """

    def __init__(self, entries: Sequence[dict[str, Any]]) -> None:
        # 2.0.8 looks for a newer version on the network when it is imported.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations as A
        from albumentations.augmentations.crops.transforms import CropSizeError

        self._failures = (ValueError, TypeError, KeyError, RuntimeError, cv2.error, CropSizeError)
        transforms = [
            build_transform(entry, f"{KEY}[{position}]") for position, entry in enumerate(entries)
        ]
        leaves = list(_leaves(transforms))
        spatial = [leaf for leaf in leaves if not isinstance(leaf, A.ImageOnlyTransform)]
        self.is_spatial = bool(spatial)
        self.names = ", ".join(type(leaf).__name__ for leaf in leaves)
        boxes = A.BboxParams(
            format="pascal_voc",
            label_fields=["rows"],
            filter_invalid_bboxes=True,
            clip=True,
        )
        self.compose = A.Compose(transforms, bbox_params=boxes if spatial else None)
        if spatial:
            names = ", ".join(dict.fromkeys(type(leaf).__name__ for leaf in spatial))
            logger.info(
                "%s: %s move pixels on dense masks, which is slow (tens of milliseconds per "
                "image); data.augment has flips, resizes, jitter and crops that are fast",
                KEY,
                names,
            )

    def __call__(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        outlines: Outlines | None,
        seed: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], Outlines | None, NDArray[np.int64]]:
        """Transforms (H, W, 3) RGB, boxes (G, 4) and their outlines.

        Returns:
            The image, the n boxes and outlines that are left, and their rows (n,) among the G.
        """
        # One pair of generators for all transforms: set_random_seed would give each of them the
        # same stream, so that they fire together.
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        rows = np.arange(len(boxes))
        if not self.is_spatial:
            return self._run({"image": image})["image"], boxes, outlines, rows
        data: dict[str, Any] = {"image": image, "bboxes": boxes, "rows": rows}
        masks = None
        if outlines is not None and len(outlines):
            masks = dense_masks(outlines, image.shape[:2])
            data["masks"] = masks
        result = self._run(data)
        rows = np.asarray(result["rows"], dtype=np.float64).round().astype(np.int64).reshape(-1)
        moved = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        image = result["image"]
        if outlines is None or masks is None:
            return image, moved, outlines, rows
        new_masks = np.asarray(result["masks"])
        if new_masks.shape == masks.shape and np.array_equal(new_masks, masks):
            return image, boxes, outlines, np.arange(len(boxes))
        return image, *_from_dense(new_masks, rows)

    def _run(self, data: dict[str, Any]) -> dict[str, Any]:
        """The compose's result, whose image must be (H, W, 3) uint8 still."""
        height, width = data["image"].shape[:2]
        try:
            result: dict[str, Any] = self.compose(**data)
        except self._failures as error:
            raise UserError(
                f"{KEY}: {self.names} failed on an image of {width}×{height} pixels: {error}"
            ) from error
        image = result["image"]
        shape = getattr(image, "shape", None)
        dtype = getattr(image, "dtype", None)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,):
            raise UserError(
                f"{KEY}: {self.names} made an array of shape {shape} and type {dtype}; (H, W, 3) "
                "uint8 is needed, so leave out what normalises or makes tensors or gray"
            )
        return result


def _from_dense(
    masks: NDArray[np.uint8], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], Outlines, NDArray[np.int64]]:
    """Boxes, outlines and rows of the masks that have a pixel left, of those in `rows`."""
    rows = rows[masks[rows].any(axis=(1, 2))]
    encoded = [coco_mask.encode(np.asfortranarray(masks[row])) for row in rows]
    codes = [code["counts"] for code in encoded]
    boxes = np.zeros((0, 4), np.float32)
    if encoded:
        boxes = np.asarray(coco_mask.toBbox(encoded), np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
    return boxes, rle_outlines(codes), rows


def dense_masks(outlines: Outlines, image_size: tuple[int, int]) -> NDArray[np.uint8]:
    """(G, H, W) uint8 0/1 masks of the whole image."""
    height, width = image_size
    box = np.array([[0.0, 0.0, width, height]])
    masks = np.empty((len(outlines), height, width), np.uint8)
    for row in range(len(outlines)):
        one = outlines.select(np.array([row]))
        masks[row] = rasterise(one, box, (height, width), affine=Affine(), image_size=image_size)[0]
    return masks


def build_transform(entry: Any, where: str) -> A.BasicTransform | A.BaseCompose:
    """One transform from {name: …, arguments…}; `where` is its place in the config.

    Raises:
        DataError: see `Pipeline`.
    """
    import albumentations as A

    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise DataError(f"{where}: give {{name: ColorJitter, p: 0.5, …}}, not {entry!r}")
    name = entry["name"]
    known = {
        key: value
        for key, value in vars(A).items()
        if key in COMPOSED
        or (
            (inspect.isclass(value) and issubclass(value, A.BasicTransform))
            and hasattr(value, "_targets")
        )  # the base classes have none
    }
    if name not in known:
        hint = did_you_mean(name, known, "see albumentations.ai for all names", cutoff=0.5)
        raise DataError(f"{where}: albumentations {A.__version__} has no {name!r}; {hint}")
    kind = known[name]
    arguments = {key: value for key, value in entry.items() if key != "name"}
    _check_arguments(kind, arguments, where)
    if "transforms" in arguments:
        inner = arguments["transforms"]
        if not isinstance(inner, list) or not inner:
            raise DataError(f"{where}: {name} needs transforms: a list of {{name: …}}")
        arguments["transforms"] = [
            build_transform(each, f"{where}.transforms[{i}]") for i, each in enumerate(inner)
        ]
    try:
        transform = kind(**{key: _tuples(value) for key, value in arguments.items()})
    except (ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if "pydantic.dev" not in line]
        raise DataError(f"{where}: {name}: {' '.join(lines)}") from error
    _check_usable(transform, where)
    return transform


def _check_arguments(kind: type, arguments: dict[str, Any], where: str) -> None:
    # 2.0.8 only warns about unknown arguments, and continues with defaults.
    parameters = list(inspect.signature(kind).parameters)
    for key in arguments.keys() - parameters:
        takes = f"it takes {', '.join(parameters)}"
        hint = did_you_mean(key, parameters, takes, most=1)
        raise DataError(f"{where}: {kind.__name__} has no argument {key!r}; {hint}")


def _check_usable(transform: Any, where: str) -> None:
    import albumentations as A
    from albumentations.core.type_definitions import Targets

    if isinstance(transform, A.BaseCompose):
        return
    name = type(transform).__name__
    if transform.targets_as_params:
        needed = ", ".join(transform.targets_as_params)
        raise DataError(f"{where}: {name} needs {needed}, which a config can't give; leave it out")
    if isinstance(transform, A.ImageOnlyTransform):
        return
    targets = transform._targets if isinstance(transform._targets, tuple) else (transform._targets,)
    if not {Targets.IMAGE, Targets.MASK, Targets.BBOXES} <= set(targets):
        raise DataError(
            f"{where}: {name} does not move boxes and masks with the image; leave it out"
        )


def _tuples(value: Any) -> Any:
    """YAML's lists of numbers as the tuples that albumentations asks for."""
    if isinstance(value, list) and all(isinstance(each, (int, float, list)) for each in value):
        return tuple(_tuples(each) for each in value)
    return value


def _leaves(transforms: Sequence[Any]) -> Iterator[Any]:
    import albumentations as A

    for transform in transforms:
        if isinstance(transform, A.BaseCompose):
            yield from _leaves(transform.transforms)
        else:
            yield transform
