"""Predictions on images that a user names, for detectors and classifiers alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from resdet.config.loading import AnyConfig
from resdet.errors import UserError
from resdet.files.images import ImageInput, to_rgb
from resdet.hardware import Precision, choose_precision
from resdet.structures import Classification, Detections

Prediction = TypeVar("Prediction", Detections, Classification)


class Model(Protocol):
    """What `inference_mode` needs of a model."""

    precision: str | None
    """What `resdet.load` was asked for; None takes train.precision of the config."""
    is_imported: bool
    """Whether the weights are another toolkit's."""

    @property
    def config(self) -> AnyConfig | None: ...

    @property
    def device(self) -> torch.device: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...


class Predictor(Model, Protocol[Prediction]):
    """What `predict` needs of a model."""

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 RGB → (3, h, w) at the size that the network sees."""

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None,
    ) -> list[Prediction]:
        """Predictions on the CPU of one batch, within `inference_mode`."""


def predict(
    model: Predictor[Prediction],
    images: ImageInput | Sequence[ImageInput],
    *,
    score_thresh: float | None,
    batch_size: int,
    precision: str | None,
    channel_order: str,
) -> Prediction | list[Prediction]:
    """See `RCNN.predict` and `Classifier.predict`."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; give at least 1")
    if score_thresh is not None and not 0 <= score_thresh <= 1:
        raise UserError(f"score_thresh is {score_thresh}; give a score from 0 to 1")
    if channel_order not in ("rgb", "bgr"):
        raise UserError(f"channel_order is {channel_order!r}; give 'rgb' or 'bgr'")
    is_list = isinstance(images, Sequence) and not isinstance(images, str)
    all_images: Sequence[ImageInput] = images if is_list else [images]  # type: ignore[assignment, list-item]
    predictions: list[Prediction] = []
    with inference_mode(model, precision):
        for start in range(0, len(all_images), batch_size):
            arrays = []
            for position, image in enumerate(all_images[start : start + batch_size], start):
                try:
                    pixels = to_rgb(image)
                except UserError as error:
                    if len(all_images) == 1:
                        raise
                    raise UserError(f"image {position} of the list: {error}") from error
                if channel_order == "bgr" and isinstance(image, np.ndarray):
                    pixels = np.ascontiguousarray(pixels[:, :, ::-1])
                arrays.append(pixels)
            prepared = [model.prepare(array) for array in arrays]
            sizes = [array.shape[:2] for array in arrays]
            predictions += model.predict_prepared(prepared, sizes, score_thresh)
    return predictions if is_list else predictions[0]


@contextmanager
def inference_mode(model: Model, precision: str | None = None) -> Iterator[None]:
    """Evaluation mode without gradients in the precision of `precision_of`; the model's training
    mode is restored afterwards."""
    chosen = precision_of(model, precision)
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        # Not torch.inference_mode: what a module caches there could not be trained with later.
        with torch.no_grad(), chosen.autocast():
            yield
    finally:
        for module, training in modes:
            module.training = training


def precision_of(model: Model, wanted: str | None = None) -> Precision:
    """The precision a trained model computes in: `wanted`, else what `resdet.load` was asked for,
    else train.precision of its config (fp32 without a config).

    A config that trained in fp16 on a GPU counts as auto on a CPU, which has no fp16.
    """
    asked = wanted or model.precision
    if asked is not None:
        return choose_precision(asked, model.device, key="precision", is_imported=model.is_imported)
    configured = "fp32" if model.config is None else model.config.train.precision
    if configured == "fp16" and model.device.type != "cuda":
        configured = "auto"
    return choose_precision(configured, model.device, is_imported=model.is_imported)
