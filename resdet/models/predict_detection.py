"""Detections of images that a user names: read, resize, infer, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from resdet.data.detection.transforms import resize_image
from resdet.errors import UserError
from resdet.files.images import ImageInput, to_rgb
from resdet.hardware import Precision, choose_precision
from resdet.structures import Detections, collate_images

if TYPE_CHECKING:
    from resdet.models.rcnn import RCNN


def predict(
    model: RCNN,
    images: ImageInput | Sequence[ImageInput],
    *,
    score_thresh: float | None = None,
    batch_size: int = 1,
) -> Detections | list[Detections]:
    """Detections on the CPU, in pixels of each original image: one for an image, a list for a list.

    An image is a path, a Pillow image, or an (H, W, 3) uint8 array in RGB order (OpenCV's arrays
    are BGR: give `array[:, :, ::-1]`). `score_thresh` (0..1) replaces the model's own threshold
    for this call. The model's training mode is as before afterwards.
    Raises UserError that names the image which cannot be used, and its position in the list.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    if isinstance(images, str) or not isinstance(images, Sequence):
        (only,) = _predict_list(model, [images], score_thresh, batch_size)
        return only
    return _predict_list(model, images, score_thresh, batch_size)


def _predict_list(
    model: RCNN, images: Sequence[ImageInput], score_thresh: float | None, batch_size: int
) -> list[Detections]:
    found: list[Detections] = []
    with inference_mode(model, score_thresh):
        for start in range(0, len(images), batch_size):
            arrays = []
            for position, image in enumerate(images[start : start + batch_size], start):
                try:
                    arrays.append(to_rgb(image))
                except UserError as error:
                    if len(images) == 1:
                        raise
                    raise UserError(f"image {position} of the list: {error}") from error
            tensors = [prepare(model, array) for array in arrays]
            found += infer(model, tensors, [array.shape[:2] for array in arrays])
    return found


def prepare(model: RCNN, pixels: np.ndarray) -> Tensor:
    """(3, h, w) at the model's test size, 0..255, of `pixels` (H, W, 3) uint8 RGB.

    uint8, or float32 for a model that resizes as floats (`data.test_resize.method`).
    """
    resized = resize_image(
        pixels, model.test_short_edge, model.test_max_size, model.test_resize_method
    )
    return torch.from_numpy(np.array(resized.transpose(2, 0, 1), order="C"))


def infer(
    model: RCNN, images: list[Tensor], original_sizes: Sequence[tuple[int, ...]]
) -> list[Detections]:
    """Detections on the CPU of prepared images (3, h, w), for a model in `inference_mode`."""
    batch = collate_images(images, model.size_divisibility).to(model.device)
    sizes = [(int(height), int(width)) for height, width in original_sizes]
    return [found.cpu() for found in model.infer(batch, sizes)]


@contextmanager
def inference_mode(model: RCNN, score_thresh: float | None) -> Iterator[None]:
    """Evaluation mode without gradients, with `score_thresh` if given; both are put back after.

    Computes in the precision of the model's config, as its evaluation does.
    """
    if score_thresh is not None and not 0 <= score_thresh <= 1:
        raise UserError(f"score_thresh is {score_thresh}; scores lie in 0..1")
    modes = [(module, module.training) for module in model.modules()]
    threshold = model.roi_heads.score_thresh
    try:
        model.eval()
        if score_thresh is not None:
            model.roi_heads.score_thresh = score_thresh
        # Not torch.inference_mode: what a module caches there could not be trained with later.
        with torch.no_grad(), precision_of(model).autocast():
            yield
    finally:
        model.roi_heads.score_thresh = threshold
        for module, training in modes:
            module.training = training


def precision_of(model: RCNN) -> Precision:
    """`train.precision` of the model's config; fp16 becomes auto on a CPU, which has none."""
    wanted, device = model.config.train.precision, model.device
    return choose_precision(
        "auto" if wanted == "fp16" and device.type != "cuda" else wanted, device
    )
