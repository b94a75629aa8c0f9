"""Drawn images and curves of a run, in its `plots/`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resdet.data.detection.batches import Batch
from resdet.data.detection.dataset import DetectionDataset
from resdet.files.run_log import read_log
from resdet.files.windows import open_windows
from resdet.files.writing import make_folder, open_atomic
from resdet.structures import Detections, Target
from resdet.viz.draw import draw_caption, draw_targets, grid
from resdet.viz.overview import draw_beside
from resdet.viz.plots import plot_training

MAX_IMAGES = 9
MAX_SIDE = 512
NUM_BATCHES = 2
"""Training batches drawn at the start of a run."""
SCORE_THRESH = 0.5


def draw_batch(micro_batches: Sequence[Batch], class_names: Sequence[str], path: Path) -> None:
    """The first images of a training step as the model gets them, with their ground truth."""
    drawn: list[Image.Image] = []
    for batch in micro_batches:
        for index in range(min(len(batch.paths), MAX_IMAGES - len(drawn))):
            height, width = batch.images.sizes[index].tolist()
            image = batch.images.images[index, :, :height, :width]
            drawn.append(draw_targets(image, target_of(batch, index), class_names))
    _save(grid(drawn, max_side=MAX_SIDE), path)


def target_of(batch: Batch, index: int) -> Target:
    """One image's objects out of a padded batch."""
    targets = batch.targets
    valid = targets.valid[index]
    masks = None if targets.masks is None else targets.masks[targets.mask_rows[index][valid]]
    return Target(
        boxes=targets.boxes[index][valid],
        labels=targets.labels[index][valid],
        masks=masks,
        image_key=int(targets.image_keys[index]),
        image_id=targets.image_ids[index],
    )


def draw_predictions(
    dataset: DetectionDataset,
    pictures: Sequence[tuple[int, str, Detections]],
    path: Path,
    *,
    score_thresh: float = SCORE_THRESH,
) -> None:
    """Some validation images, as (position in `dataset`, file, detections): their ground truth,
    and beside it the detections that score above `score_thresh`, 0..1."""
    if pictures:
        drawn = [
            draw_beside(
                open_windows(file, dataset.max_pixels),
                truth_of(dataset, position, detections),
                detections,
                score_thresh=score_thresh,
                max_side=MAX_SIDE,
            )
            for position, file, detections in pictures
        ]
        _save(grid(drawn), path)


def truth_of(dataset: DetectionDataset, position: int, found: Detections) -> Detections:
    """The objects of an image in the form of the detections `found` in it, with masks where both
    have them; crowd regions are left out."""
    table = dataset.table
    rows = np.flatnonzero((table.image_of == dataset.images[position]) & ~table.crowd)
    x, y, width, height = torch.from_numpy(table.boxes_xywh[rows]).float().unbind(1)
    has_masks = found.has_masks and table.has_masks
    return Detections(
        torch.stack([x, y, x + width, y + height], dim=1),
        torch.ones(len(rows)),
        torch.from_numpy(table.labels[rows]).long(),
        image_size=found.image_size,
        class_names=list(dataset.class_names),
        rles=[table.rles[row] for row in rows.tolist()] if has_masks else None,
    )


def draw_labelled(pictures: Sequence[tuple[np.ndarray, str]], path: Path) -> None:
    """Some images (H, W, 3) uint8 RGB of a classifier, each under its words."""
    if pictures:
        _save(grid([draw_caption(array, words) for array, words in pictures], max_side=256), path)


def draw_curves(folder: Path) -> None:
    """Losses, learning rate and metrics of a run folder's log.jsonl."""
    plot_training(read_log(folder / "log.jsonl"), folder / "plots")


def _save(image: Image.Image, path: Path) -> None:
    make_folder(path.parent, "--run-dir")
    with open_atomic(path, "wb") as file:
        image.save(file, format="JPEG", quality=90)
