"""An image classifier: a backbone of the registry and a head on its feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from resdet.backbones.heads import Head
from resdet.models.predict import Predictor
from resdet.models.views import make_views, view_logits
from resdet.structures import Classification

if TYPE_CHECKING:
    from resdet.config.classification import ClassificationConfig

TOP = 5
"""Classes of an answer."""


class Classifier(Predictor[Classification]):
    """Backbone and head, and what turns pixels into their input.

    Its state dict has `backbone.…`, `head.…`, `pixel_mean` and `pixel_std`.
    """

    config: ClassificationConfig | None
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        pixel_mean: Sequence[float] | Tensor,
        pixel_std: Sequence[float],
        channel_order: str,
        channels_last: bool,
        test_resize: int,
        test_size: int,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",
        class_names: Sequence[str],
        config: ClassificationConfig | None = None,
    ) -> None:
        """`pixel_mean` is (3,), or (3, H, W) for a mean of each pixel, 0..255."""
        super().__init__()
        self.backbone = backbone
        self.head = head
        mean = torch.as_tensor(pixel_mean, dtype=torch.float32)
        self.register_buffer("pixel_mean", mean if mean.ndim == 3 else mean[:, None, None])
        std = torch.tensor(list(pixel_std), dtype=torch.float32)
        self.register_buffer("pixel_std", std[:, None, None])
        self.channel_order = channel_order
        self.channels_last = channels_last
        self.test_resize = test_resize
        self.test_size = test_size
        self.interpolation: Literal["bilinear", "bicubic"] = interpolation
        self.class_names = list(class_names)
        self.config = config
        self._logits: Any = self.logits

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def set_compiled(self, compiled: bool) -> None:
        """Run backbone and head through torch.compile, or eagerly again."""
        self._logits = torch.compile(self.logits) if compiled else self.logits

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) 0..255, uint8 or float, RGB → the network's input.

        A mean of each pixel is used at its own size, and as a mean of each channel at others.
        """
        mean = self.pixel_mean
        if mean.shape[-2:] != images.shape[-2:]:
            mean = mean.mean((1, 2), keepdim=True)
        return self.to_input(images, mean)

    def logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Normalised images → logits (B, K), and in training those of auxiliary classifiers."""
        features = self.backbone(images)
        main = self.head(features)
        auxiliary = getattr(self.head, "auxiliary", None)
        if self.training and auxiliary is not None:
            return (main, *auxiliary(features))
        return (main,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """As `logits`, compiled where `set_compiled` says so."""
        logits: tuple[Tensor, ...] = self._logits(images)
        return logits

    def prepare(self, pixels: np.ndarray) -> Tensor:
        """The centre crop (3, S, S) uint8 of `pixels` (H, W, 3) uint8 RGB."""
        views = make_views(
            "1",
            test_resize=self.test_resize,
            test_size=self.test_size,
            interpolation=self.interpolation,
        )
        (crop,) = views(pixels)
        return crop[0]

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]] = (),
        score_thresh: float | None = None,
    ) -> list[Classification]:
        logits = view_logits(self, torch.stack(list(images)), dense=False)
        probabilities = logits.softmax(1).cpu()
        # sorted by the rule of the metric: of equal scores the first class
        scores, labels = probabilities.sort(dim=1, descending=True, stable=True)
        top = min(TOP, probabilities.shape[1])
        answers = [
            Classification(labels[i, :top], scores[i, :top], probabilities[i], self.class_names)
            for i in range(len(probabilities))
        ]
        return answers if score_thresh is None else [each.above(score_thresh) for each in answers]

    def dense(self, images: Tensor) -> Tensor:
        """Normalised images of any size → logits (B, K, h, w); see `Head.dense`."""
        return cast(Head, self.head).dense(self.backbone(images))
