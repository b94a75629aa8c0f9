"""Classes of images that a user names: read, cut, classify, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.files.images import ImageInput, to_rgb
from resdet.hardware import Precision, choose_precision
from resdet.models.classifier import Classifier
from resdet.models.views import Views, make_views, view_logits
from resdet.structures import Classification

TOP = 5


def predict(
    model: Classifier,
    images: ImageInput | Sequence[ImageInput],
    *,
    batch_size: int = 1,
) -> Classification | list[Classification]:
    """Classes by the centre crop, on the CPU: one answer for an image, a list for a list.

    An image is a path, a Pillow image, or an (H, W, 3) uint8 array in RGB order. The model's
    training mode is as before afterwards. Raises UserError that names the image which cannot be
    used, and its position in the list.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    if isinstance(images, str) or not isinstance(images, Sequence):
        (only,) = _predict_list(model, [images], batch_size)
        return only
    return _predict_list(model, images, batch_size)


def _predict_list(
    model: Classifier, images: Sequence[ImageInput], batch_size: int
) -> list[Classification]:
    views = centre_crop(model)
    found: list[Classification] = []
    with inference_mode(model):
        for start in range(0, len(images), batch_size):
            crops = []
            for position, image in enumerate(images[start : start + batch_size], start):
                try:
                    crops.append(prepare(views, to_rgb(image)))
                except UserError as error:
                    if len(images) == 1:
                        raise
                    raise UserError(f"image {position} of the list: {error}") from error
            found += infer(model, crops)
    return found


def centre_crop(model: Classifier) -> Views:
    """One crop of the model's test size."""
    return make_views(
        "1",
        test_resize=model.test_resize,
        test_size=model.test_size,
        interpolation=model.interpolation,
    )


def prepare(views: Views, pixels: np.ndarray) -> Tensor:
    """The one crop (3, S, S) uint8 of `pixels` (H, W, 3) uint8 RGB."""
    (crop,) = views(pixels)
    return crop[0]


def infer(model: Classifier, crops: Sequence[Tensor]) -> list[Classification]:
    """Classes of crops (3, S, S) uint8 RGB, for a model in `inference_mode`."""
    logits = view_logits(model, torch.stack(list(crops)), dense=False)
    probabilities = logits.softmax(1).cpu()
    # sorted by the rule of the metric: of equal scores the first class
    scores, labels = probabilities.sort(dim=1, descending=True, stable=True)
    top = min(TOP, probabilities.shape[1])
    return [
        Classification(labels[i, :top], scores[i, :top], probabilities[i], model.class_names)
        for i in range(len(probabilities))
    ]


@contextmanager
def inference_mode(model: Classifier) -> Iterator[None]:
    """Evaluation mode without gradients, in the precision of the model's config; training mode is
    put back after."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        # Not torch.inference_mode: what a module caches there could not be trained with later.
        with torch.no_grad(), precision_of(model).autocast():
            yield
    finally:
        for module, training in modes:
            module.training = training


def precision_of(model: Classifier) -> Precision:
    """`train.precision` of the model's config, fp32 without one; fp16 becomes auto on a CPU, which
    has none."""
    wanted = "fp32" if model.config is None else model.config.train.precision
    on_cpu = model.device.type != "cuda"
    return choose_precision("auto" if wanted == "fp16" and on_cpu else wanted, model.device)
