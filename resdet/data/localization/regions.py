"""Proposals as warped crops, for an R-CNN that sees one region at a time.

Each proposal is cut out of the original image and warped to a square, whatever its shape (Girshick
et al. 2014, appendix A), so that a small object fills the network's input as a large one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from resdet.data.classification.transforms import ColorJitter
from resdet.data.detection.batches import name_images
from resdet.data.detection.checks import clip_boxes
from resdet.data.detection.dataset import DetectionDataset
from resdet.data.localization.dataset import image_labels
from resdet.files.images import REDUCTIONS, EncodedImage, open_image
from resdet.files.pixels import resize_antialiased, to_planes
from resdet.files.proposals import Proposals
from resdet.ops.boxes import pairwise_iou
from resdet.structures import map_tensors, moved

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Regions:
    """What is cut out for n proposals."""

    windows: NDArray[np.int64]
    """(n, 4) xyxy in whole pixels of the image; with context they may pass its border."""
    frames: NDArray[np.float32]
    """(n, 4) xyxy: the part of each window without its context, which box deltas relate to."""


def regions_of(boxes: NDArray[np.floating], context: float = 0.0) -> Regions:
    """The windows of proposals (n, 4) xyxy pixels.

    A window is the proposal enlarged about its centre, so that `context` (0..1) of the window's
    sides is outside of it, and rounded to whole pixels, at least one. The network sees the rounded
    window; deltas therefore relate to it and not to the proposal, which makes the way from pixels
    to boxes and back exact.
    """
    wanted = _scaled(boxes, 1 / (1 - context))
    first = np.floor(wanted[:, :2] + 0.5)
    last = np.maximum(np.floor(wanted[:, 2:] + 0.5), first + 1)
    windows = np.concatenate([first, last], axis=1)
    return Regions(windows.astype(np.int64), _scaled(windows, 1 - context).astype(np.float32))


def _scaled(boxes: NDArray[np.generic], factor: float) -> NDArray[np.float64]:
    """Boxes (n, 4) with sides times `factor` about their centres."""
    corners = boxes.astype(np.float64)
    centre = (corners[:, :2] + corners[:, 2:]) / 2
    half = (corners[:, 2:] - corners[:, :2]) / 2 * factor
    return np.concatenate([centre - half, centre + half], axis=1)


def warp(
    pixels: Pixels,
    window: Sequence[int],
    side: int,
    fill: Sequence[int],
    size: tuple[int, int] | None = None,
) -> Pixels:
    """The window (x1, y1, x2, y2) of an image, warped to (side, side, 3); `fill` (3,) RGB where it
    passes the border.

    `pixels` (h, w, 3) are the image, or a smaller copy of one of `size` (height, width), which the
    window is in pixels of.
    """
    x1, y1, x2, y2 = window
    height, width = size or pixels.shape[:2]
    columns, across = _inner(x1, x2, width, pixels.shape[1], side)
    rows, down = _inner(y1, y2, height, pixels.shape[0], side)
    inside = np.ascontiguousarray(pixels[rows, columns])
    inner = resize_antialiased(inside, (down.stop - down.start, across.stop - across.start))
    if inner.shape == (side, side, 3):
        return inner
    square = np.empty((side, side, 3), np.uint8)
    square[:] = fill
    square[down, across] = inner
    return square


def _inner(first: int, last: int, full: int, pixels: int, side: int) -> tuple[slice, slice]:
    """The part of a window's axis inside an image of `full` pixels: in its copy of `pixels`, and in
    the square. At least one pixel of each."""
    begin = min(max(first, 0), full - 1)
    end = max(min(last, full), begin + 1)
    reduced, scale = pixels / full, side / (last - first)
    low = min(round(begin * reduced), pixels - 1)
    high = max(low + 1, round(end * reduced))
    start = min(max(round((begin - first) * scale), 0), side - 1)
    stop = max(start + 1, min(round((end - first) * scale), side))
    return slice(low, high), slice(start, stop)


def read_for(image: EncodedImage, windows: NDArray[np.int64], side: int) -> Pixels:
    """The pixels of an image for training crops: a JPEG file of which every window is two, four or
    eight times as large as needed is decoded at that fraction of its size."""
    spare = int((windows[:, 2:] - windows[:, :2]).min()) // side
    return image.fast_pixels(max(r for r in REDUCTIONS if r <= max(1, spare)))


@dataclass
class RegionSample:
    """The crops of one image."""

    crops: Tensor
    """(R, 3, S, S) uint8 RGB."""
    frames: Tensor
    """(R, 4) float32 xyxy in pixels of the image, mirrored where the crop is; see `Regions`."""
    gt_boxes: Tensor
    """(R, 4) float32 xyxy of the object that each crop shows best, in the same pixels."""
    positive: Tensor
    """(R,) bool, whether it shows it well enough."""
    label: int
    """0..K-1, that of the image."""
    image_id: int | str
    path: str
    index: int
    """Position in the data set."""
    problem: str | None = None
    """Why the image can't be read, with its file; None if it can."""


@dataclass
class RegionBatch:
    """The crops of one micro-batch, those of an image next to each other."""

    crops: Tensor
    """(R, 3, S, S) uint8 RGB."""
    frames: Tensor
    """(R, 4) float32 xyxy, see `RegionSample`."""
    gt_boxes: Tensor
    """(R, 4) float32 xyxy."""
    positive: Tensor
    """(R,) bool."""
    labels: Tensor
    """(R,) int64, 0..K-1: the class of each proposal."""
    valid: Tensor
    """(R,) bool, False for crops of an image that can't be read: they have no weight."""
    image_ids: list[int | str]
    """B ids, one per image."""
    paths: list[str]
    problems: list[tuple[int, str]]
    """(position in the data set, reason) of each image that can't be read."""

    @property
    def image_names(self) -> list[str]:
        """`PATH (id ID)` of each image, for messages."""
        return name_images(self.paths, self.image_ids)

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, 3, S, S)."""
        return tuple(self.crops.shape)

    def to(self, device: torch.device) -> RegionBatch:
        return moved(self, device)

    def pin_memory(self) -> RegionBatch:
        """The same in page-locked memory, from which copies to a GPU run alongside its work."""
        return map_tensors(self, Tensor.pin_memory)


def collate_regions(samples: Sequence[RegionSample]) -> RegionBatch:
    """One batch of samples, in their order."""
    labels = [torch.full((len(sample.frames),), sample.label) for sample in samples]
    valid = [torch.full((len(sample.frames),), sample.problem is None) for sample in samples]
    return RegionBatch(
        torch.cat([sample.crops for sample in samples]),
        torch.cat([sample.frames for sample in samples]),
        torch.cat([sample.gt_boxes for sample in samples]),
        torch.cat([sample.positive for sample in samples]),
        torch.cat(labels),
        torch.cat(valid),
        [sample.image_id for sample in samples],
        [sample.path for sample in samples],
        [(s.index, s.problem) for s in samples if s.problem is not None],
    )


class RegionDataset(torch.utils.data.Dataset[RegionSample]):
    """Random crops of the proposals of each image's class.

    Args:
        images: images with one class each; its own transform is not used.
        proposals: those of the images, in the same order.
        side: S, height and width of a crop in pixels.
        context: see `regions_of`.
        fill: RGB of pixels outside the image.
        rois_per_image: R, crops drawn from an image, with replacement.
        positive_fraction: chance that a crop is a positive one, if the image has both kinds.
        foreground_iou: IoU with an object from which on a proposal is positive.
        num_proposals: best-scored proposals that are drawn from.
        flip_prob: chance of a mirrored crop.
        color_jitter: strength of `ColorJitter`; 0 is off.
        seed: of all that is random here.
    Raises:
        DataError: an image has objects of several classes.
    """

    def __init__(
        self,
        images: DetectionDataset,
        proposals: Proposals,
        *,
        side: int,
        context: float,
        fill: Sequence[int],
        rois_per_image: int,
        positive_fraction: float,
        foreground_iou: float,
        num_proposals: int,
        flip_prob: float,
        color_jitter: float,
        seed: int,
    ) -> None:
        self.images, self.proposals = images, proposals
        self.side, self.context, self.fill = side, context, tuple(fill)
        self.rois_per_image, self.positive_fraction = rois_per_image, positive_fraction
        self.foreground_iou, self.num_proposals = foreground_iou, num_proposals
        self.flip_prob, self.seed = flip_prob, seed
        self.jitter = ColorJitter(color_jitter) if color_jitter else None
        self.labels = image_labels(images)

    def __len__(self) -> int:
        return len(self.images)

    def objects(self, index: int) -> NDArray[np.float32]:
        """Boxes (G, 4) xyxy of an image's objects, in pixels."""
        images = self.images
        rows = images.rows[images.starts[index] : images.stops[index]]
        size = images.table.sizes[[images.images[index]]]
        return clip_boxes(images.table.boxes_xywh[rows], size).astype(np.float32)

    def __getitem__(self, key: tuple[int, int]) -> RegionSample:
        """The crops of (epoch, index); what is random depends on seed, epoch and index alone.

        Raises:
            DataError: the image can't be read, or does not have the size that its file states.
        """
        epoch, index = key
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, epoch, index)))
        label, gt_boxes = int(self.labels[index]), self.objects(index)
        boxes, _ = self.proposals.of_class(index, label, self.num_proposals)
        frames, windows, ious = self._measured(boxes, gt_boxes)
        best = ious.argmax(axis=1) if len(ious) else np.zeros(0, np.int64)
        positive = ious.max(axis=1, initial=0) >= self.foreground_iou
        if not positive.any():
            # without a good proposal the objects themselves are the positives
            own_frames, own_windows, _ = self._measured(gt_boxes, gt_boxes)
            frames, windows = (
                np.concatenate([frames, own_frames]),
                np.concatenate([windows, own_windows]),
            )
            best = np.concatenate([best, np.arange(len(gt_boxes))])
            positive = np.concatenate([positive, np.ones(len(gt_boxes), bool)])
        rows = self._draw(positive, rng)
        path = self.images.path(index)
        crops, mirrored = self._cut(path, index, windows[rows], rng)
        frames, gt = frames[rows], gt_boxes[best[rows]]
        # mirrored about the middle of the frame, so that the frame stays where it is
        turned = gt.copy()
        turned[:, [0, 2]] = (frames[:, 0] + frames[:, 2])[:, None] - gt[:, [2, 0]]
        gt = np.where(mirrored[:, None], turned, gt)
        return RegionSample(
            crops,
            torch.from_numpy(frames),
            torch.from_numpy(gt),
            torch.from_numpy(positive[rows]),
            label,
            self.images.table.image_ids[int(self.images.images[index])],
            str(path),
            index,
        )

    def unreadable(self, key: tuple[int, int], problem: str) -> RegionSample:
        """The sample that keeps the place of an image that can't be read: black crops, none of
        them positive."""
        _, index = key
        count = self.rois_per_image
        frames = torch.tensor([[0.0, 0.0, self.side, self.side]]).repeat(count, 1)
        return RegionSample(
            torch.zeros((count, 3, self.side, self.side), dtype=torch.uint8),
            frames,
            frames.clone(),
            torch.zeros(count, dtype=torch.bool),
            int(self.labels[index]),
            self.images.table.image_ids[int(self.images.images[index])],
            str(self.images.path(index)),
            index,
            problem,
        )

    def _measured(
        self, boxes: NDArray[np.float32], gt_boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Frames (n, 4), windows (n, 4) and IoU (n, G) of the frames of boxes (n, 4)."""
        regions = regions_of(boxes, self.context)
        ious = pairwise_iou(torch.from_numpy(regions.frames), torch.from_numpy(gt_boxes))
        return regions.frames, regions.windows, ious.numpy()

    def _draw(self, positive: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """(R,) rows: each positive with its chance, then any of its kind alike."""
        kinds = [np.flatnonzero(~positive), np.flatnonzero(positive)]
        rows = []
        for _ in range(self.rois_per_image):
            kind = kinds[int(rng.random() < self.positive_fraction)]
            if not len(kind):
                kind = kinds[0] if len(kinds[0]) else kinds[1]
            rows.append(int(kind[rng.integers(len(kind))]))
        return np.array(rows, np.int64)

    def _cut(
        self, path: Path, index: int, windows: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, NDArray[np.bool_]]:
        """Crops (R, 3, S, S), and (R,) which of them are mirrored."""
        image = open_image(path, self.images.max_pixels)
        self.images.check_size(index, *image.size)
        pixels = read_for(image, windows, self.side)
        mirrored = rng.random(len(windows)) < self.flip_prob
        crops = []
        for window, mirror in zip(windows.tolist(), mirrored.tolist(), strict=True):
            crop = warp(pixels, window, self.side, self.fill, image.size)
            if mirror:
                crop = np.asarray(cv2.flip(crop, 1), np.uint8)
            if self.jitter is not None:
                crop = np.asarray(self.jitter(Image.fromarray(np.ascontiguousarray(crop)), rng))
            crops.append(to_planes(crop))
        return torch.stack(crops), mirrored
