"""The tensors that travel between data, models and evaluation, each with its shape and unit."""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from resdet.dependencies import import_extra
from resdet.errors import UserError
from resdet.ops.masks import encode_rle, paste_in_windows, paste_masks
from resdet.ops.runs import Window, decode_window


@dataclass
class ImageBatch:
    """Images of one step, padded right and bottom to a common size."""

    images: Tensor
    """(B, 3, H, W) RGB, 0..255, uint8, or float32 where they were resized as floats
    (data.test_resize.method float); H and W are multiples of 32 for models with a pyramid; 0
    outside the true size."""
    sizes: Tensor
    """(B, 2) int64 true (height, width) of each image inside the padding, in pixels."""

    def to(self, device: torch.device) -> ImageBatch:
        return moved(self, device)


@dataclass
class Target:
    """Ground truth of one training image, after the transforms."""

    boxes: Tensor
    """(G, 4) float32 xyxy in pixels of the transformed image."""
    labels: Tensor
    """(G,) int64, 0..K-1."""
    masks: Tensor | None
    """(G, M, M) uint8 0/1, each rasterised inside its gt box; None where masks are not trained."""
    image_key: int
    """Position of the image in its data set: with seed and step it keys the sampling."""
    image_id: int | str
    """The id in the annotation file, for messages."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """(G, …) each: further values per object by name, for branches that learn them."""


@dataclass
class TargetBatch:
    """The targets of one step, padded to the largest object count G (at least 1)."""

    boxes: Tensor
    """(B, G, 4) float32 xyxy in pixels; 0 in padding."""
    labels: Tensor
    """(B, G) int64, 0..K-1; 0 in padding."""
    valid: Tensor
    """(B, G) bool, False in padding."""
    masks: Tensor | None
    """(S, M, M) uint8 0/1 over all objects of the batch, in image order; S is at least 1."""
    mask_rows: Tensor
    """(B, G) int64 row of each object in `masks`; 0 in padding."""
    image_keys: Tensor
    """(B,) int64, see `Target.image_key`."""
    readable: Tensor
    """(B,) bool, False for an image that could not be read: it has no weight in any loss."""
    image_ids: list[int | str] = field(default_factory=list)
    """B ids, kept on the host for messages."""

    extra: dict[str, Tensor] = field(default_factory=dict)
    """(B, G, …) each, see `Target.extra`; 0 in padding."""

    def to(self, device: torch.device) -> TargetBatch:
        return moved(self, device)


TRACK_ID = "track_id"
"""The key of `Detections.extra` for `track_ids`."""


@dataclass(repr=False)
class Detections:
    """The detections of one image, best score first, in pixels of the original image."""

    boxes: Tensor
    """(N, 4) float32 xyxy in pixels of the original image."""
    scores: Tensor
    """(N,) float32, 0..1."""
    labels: Tensor
    """(N,) int64, 0..K-1."""
    image_size: tuple[int, int]
    """(height, width) of the original image in pixels."""
    mask_probs: Tensor | None = None
    """(N, m, m) float32 probabilities inside each box, before pasting; None without a mask head,
    and where the masks are `rles`."""
    class_names: list[str] = field(default_factory=list)
    """K names; empty where unknown."""
    category_ids: list[int] = field(default_factory=list)
    """K original category ids of the annotation file; empty means label + 1."""
    mask_paste: str = "continuous"
    """How masks go into the image: continuous or rounded, see `paste_masks`."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """(N, …) each: what further branches predict, by name."""
    rles: list[dict[str, Any]] | None = None
    """N masks as compressed COCO RLE ({"size": [H, W], "counts": str}) in the original size, in
    place of `mask_probs`: those merged from several tiles are on no grid in their boxes."""
    _pasted: Tensor | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        """Counts and sizes in one line; the tensors are fields."""
        counts = Counter(self.labels.tolist()).most_common()
        classes = ", ".join(f"{count} {self._name(label)}" for label, count in counts[:5])
        values = {"mask_probs": self.mask_probs, **self.extra}
        shapes = ", ".join(
            f"{name} {'×'.join(map(str, value.shape[1:]))}".rstrip()
            for name, value in values.items()
            if value is not None
        )
        shapes += f"{', ' if shapes else ''}rles" if self.rles is not None else ""
        height, width = self.image_size
        what = f"{len(self)}{': ' if counts else ''}{classes}{', …' if counts[5:] else ''}"
        return f"Detections({what}; {height}×{width}{'; ' if shapes else ''}{shapes})"

    def _name(self, label: int) -> str:
        return self.class_names[label] if self.class_names else f"of class {label}"

    @property
    def track_ids(self) -> Tensor | None:
        """(N,) int64 ids of the tracks that a `Tracker` gave, from 1; None without."""
        return self.extra.get(TRACK_ID)

    @property
    def has_masks(self) -> bool:
        """Whether each detection has a mask, in either form."""
        return self.mask_probs is not None or self.rles is not None

    @property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool at the original size, pasted on first use; None without a mask head."""
        if self._pasted is None and self.mask_probs is not None:
            self._pasted = paste_masks(
                self.mask_probs, self.boxes, self.image_size, paste=self.mask_paste
            )
        elif self._pasted is None and self.rles is not None:
            self._pasted = torch.zeros((len(self), *self.image_size), dtype=torch.bool)
            for whole, ((x1, y1, x2, y2), mask) in zip(
                self._pasted, self.mask_windows(), strict=True
            ):
                whole[y1:y2, x1:x2] = mask
        return self._pasted

    def mask_windows(self) -> Iterator[tuple[Window, Tensor]]:
        """Each mask as (h, w) bool on the CPU in a window of the image that holds all of it, one
        at a time: memory does not grow with N × H × W. Nothing without masks."""
        if self.mask_probs is not None:
            yield from paste_in_windows(
                self.mask_probs, self.boxes, self.image_size, paste=self.mask_paste
            )
        for rle in self.rles or ():
            window, mask = decode_window(rle)
            yield window, torch.from_numpy(np.ascontiguousarray(mask))

    def encoded_masks(self) -> list[dict[str, Any]] | None:
        """N masks as compressed COCO RLE in the original size; None without a mask head."""
        if self.mask_probs is None:
            return self.rles
        return encode_rle(self.mask_probs, self.boxes, self.image_size, paste=self.mask_paste)

    def __getitem__(self, keep: Any) -> Detections:
        """The detections picked by a slice, a boolean mask or an index tensor of shape (N,).

        A number picks one, which is still Detections, of length 1.
        """
        if isinstance(keep, int):
            keep = [range(len(self))[keep]]
        picked = map_tensors(self, lambda values: values[keep])
        if self.rles is not None:
            rows = torch.arange(len(self), device=self.scores.device)[keep].tolist()
            picked.rles = [self.rles[row] for row in rows]
        return picked

    def cpu(self) -> Detections:
        return map_tensors(self, Tensor.cpu)

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """COCO result records: original category ids, xywh boxes in pixels, compressed RLE.

        Masks are pasted and encoded a few at a time, so that memory does not grow with N × H × W.
        Of `extra`, numbers (N,) and rows of numbers (N, D) are in the records under their names.
        """
        boxes = self.boxes.cpu().double().numpy()
        boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        records: list[dict[str, Any]] = [
            {
                "image_id": image_id,
                "category_id": self._category_id(label),
                "bbox": [round(v, 3) for v in box],
                "score": score,
            }
            for box, score, label in zip(
                boxes_xywh.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]
        if (rles := self.encoded_masks()) is not None:
            for record, rle in zip(records, rles, strict=True):
                record["segmentation"] = rle
        for name, values in self.extra.items():
            if values.ndim <= 2:
                for record, value in zip(records, values.tolist(), strict=True):
                    record.setdefault(name, value)
        return records

    def to_pandas(self) -> Any:
        """A pandas DataFrame with one row per detection: x1, y1, x2, y2 in pixels, score, label,
        class_name (None where unknown), category_id, and what `extra` has one number of per
        detection, such as track_id. Masks are left out. UserError without pandas."""
        pandas = import_extra("pandas", "tables", "to_pandas")
        labels = self.labels.tolist()
        columns: dict[str, Any] = dict(
            zip(("x1", "y1", "x2", "y2"), self.boxes.cpu().numpy().T, strict=True)
        )
        columns["score"], columns["label"] = self.scores.cpu().numpy(), self.labels.cpu().numpy()
        columns["class_name"] = [self.class_names[k] if self.class_names else None for k in labels]
        columns["category_id"] = [self._category_id(label) for label in labels]
        for name, values in self.extra.items():
            if values.ndim == 1:
                columns.setdefault(name, values.cpu().numpy())
        return pandas.DataFrame(columns)

    def to_supervision(self) -> Any:
        """As `supervision.Detections`, with masks (N, H, W), tracker_id, and class_name and the
        rest of `extra` in its data. UserError without the package supervision."""
        supervision = import_extra("supervision", "supervision", "to_supervision")
        ids, masks = self.track_ids, self.masks
        data = {
            name: values.cpu().numpy() for name, values in self.extra.items() if name != TRACK_ID
        }
        if self.class_names:
            data["class_name"] = np.array([self.class_names[k] for k in self.labels.tolist()], str)
        return supervision.Detections(
            xyxy=self.boxes.cpu().numpy(),
            mask=None if masks is None else masks.cpu().numpy(),
            confidence=self.scores.cpu().numpy(),
            class_id=self.labels.cpu().numpy(),
            tracker_id=None if ids is None else ids.cpu().numpy(),
            data=data,
        )

    def crop(self, image: Any) -> list[np.ndarray]:
        """N pictures (h, w, 3): what is in each box of `image`, a Pillow image or an (H, W, 3)
        array, with the pixels that the box covers in part, at least one. UserError if the image has
        another size than that of the detections."""
        upright = ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image
        pixels = np.asarray(upright.convert("RGB") if isinstance(upright, Image.Image) else upright)
        height, width = self.image_size
        if pixels.shape[:2] != (height, width):
            raise UserError(
                f"the detections belong to an image of {width}×{height} pixels, this one has shape "
                f"{pixels.shape}; give the Pillow image or array that they were made from"
            )
        boxes = self.boxes.cpu().double().numpy()
        first = np.clip(np.floor(boxes[:, :2]), 0, (width - 1, height - 1)).astype(int)
        last = np.clip(np.ceil(boxes[:, 2:]), first + 1, (width, height)).astype(int)
        return [
            pixels[y1:y2, x1:x2].copy()
            for (x1, y1), (x2, y2) in zip(first.tolist(), last.tolist(), strict=True)
        ]

    def _category_id(self, label: int) -> int:
        return self.category_ids[label] if self.category_ids else label + 1


Structure = TypeVar("Structure")


def map_tensors(structure: Structure, change: Callable[[Tensor], Tensor]) -> Structure:
    """The dataclass with `change` made to each tensor in it, also in dicts and nested dataclasses:
    how batches are moved and pinned, and detections picked, whatever fields they have."""

    def changed(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        return map_tensors(value, change) if is_dataclass(value) else value

    values = {each.name: changed(getattr(structure, each.name)) for each in fields(structure)}  # type: ignore[arg-type]
    return replace(structure, **values)  # type: ignore[type-var]


def moved(structure: Structure, device: torch.device) -> Structure:
    """The dataclass on the device; copied asynchronously where its tensors are pinned."""
    return map_tensors(structure, lambda tensor: tensor.to(device, non_blocking=True))


PAD_MULTIPLE = 32
"""What sides are padded to a multiple of under a feature pyramid, whose maps halve evenly then."""


def collate_images(images: Sequence[Tensor], multiple: int = PAD_MULTIPLE) -> ImageBatch:
    """Pads images (3, h, w), all uint8 or all float32, right and bottom with 0, to the largest
    height and width of them, rounded up to a `multiple`: a model's `size_divisibility`."""
    height = _round_up(max(image.shape[1] for image in images), multiple)
    width = _round_up(max(image.shape[2] for image in images), multiple)
    batch = images[0].new_empty((len(images), 3, height, width))
    for row, image in enumerate(images):
        down, across = image.shape[1:]
        batch[row, :, :down, :across] = image
        batch[row, :, :down, across:] = 0
        batch[row, :, down:] = 0
    sizes = torch.tensor([image.shape[1:] for image in images], dtype=torch.int64)
    return ImageBatch(batch, sizes)


def _round_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


_WNID = re.compile(r"n\d{8}")
IMAGENET_CRC = 0x7D9503EB
"""CRC-32 of ImageNet-1k's 1,000 wnids, sorted and joined."""


@dataclass
class Classification:
    """The classes of one image, best first."""

    labels: Tensor
    """(T,) int64, 0..K-1: the five best classes, or all K where there are fewer."""
    scores: Tensor
    """(T,) float32, 0..1: their share of the softmax."""
    probabilities: Tensor
    """(K,) float32, the whole softmax."""
    class_names: list[str] = field(default_factory=list)
    """K names as in the data; `names` are for people."""

    @property
    def names(self) -> list[str]:
        """T names for people: ImageNet's words in place of its 1,000 folder names."""
        readable = readable_names(self.class_names)
        return [readable[label] for label in self.labels.tolist()]

    def above(self, score_thresh: float) -> Classification:
        """The same without the classes that score at or below `score_thresh`, 0..1."""
        keep = self.scores > score_thresh
        return Classification(
            self.labels[keep], self.scores[keep], self.probabilities, self.class_names
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One record per class: label, name (as in the data), words (for people) and score."""
        rows = zip(self.labels.tolist(), self.names, self.scores.tolist(), strict=True)
        return [
            {"label": label, "name": self.class_names[label], "words": words, "score": score}
            for label, words, score in rows
        ]


def readable_names(class_names: Sequence[str]) -> list[str]:
    """Words for the 1,000 classes of ImageNet where `class_names` are just these, in any order, as
    wnids ("n01440764"); else `class_names` as they are."""
    names = list(class_names)
    if len(names) != 1000 or not all(_WNID.fullmatch(name) for name in names):
        return names
    wnids = sorted(names)
    if zlib.crc32(" ".join(wnids).encode()) != IMAGENET_CRC:
        return names
    from torchvision.models import ResNet18_Weights

    # torchvision's list is in the order of the wnids
    words = dict(zip(wnids, ResNet18_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
    return [words[name] for name in names]
