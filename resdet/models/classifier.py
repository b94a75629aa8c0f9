"""An image classifier: a backbone of the registry and a head on its feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from resdet.backbones.heads import Head
from resdet.ops.normalize import normalize_pixels

if TYPE_CHECKING:
    from resdet.config.classification import ClassificationConfig


class Classifier(nn.Module):
    """Backbone and head, and what turns pixels into their input.

    Its state dict has `backbone.…`, `head.…`, `pixel_mean` and `pixel_std`.
    """

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
        self._training_logits: Any = self.logits

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def place(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Move to a device and number format, in the memory layout that `normalize` gives."""
        self.to(device, dtype)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def set_compiled(self, compiled: bool, *, recorded: bool = False) -> None:
        """Run backbone and head through torch.compile, or eagerly again.

        Where they are `recorded`, their forward and backward passes in training are CUDA graphs,
        recorded once and played back: of small images a GPU computes a layer sooner than the host
        can start it. Images are then of one size, and a gradient is gone with the next step.
        """
        self._logits = torch.compile(self.logits) if compiled else self.logits
        self._training_logits = self._logits
        if compiled and recorded:
            self._training_logits = torch.compile(self.logits, mode="reduce-overhead")

    def normalize(self, images: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) 0..255, uint8 or float, RGB → the network's input.

        A mean of each pixel is used at its own size, and as a mean of each channel at others.
        """
        mean = self.pixel_mean
        if self.channel_order == "bgr":
            images = images.flip(1)
        if mean.shape[-2:] != images.shape[-2:]:
            mean = mean.mean((1, 2), keepdim=True)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return normalize_pixels(images, mean, self.pixel_std)

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
        return self._training_logits(images) if self.training else self._logits(images)

    def predict(self, images: Any, *, batch_size: int = 1) -> Any:
        """`Classification` of a path, PIL image or (H, W, 3) uint8 RGB array, a list for a list."""
        from resdet.models.predict_classification import predict

        return predict(self, images, batch_size=batch_size)

    def dense(self, images: Tensor) -> Tensor:
        """Normalised images of any size → logits (B, K, h, w); see `Head.dense`."""
        return cast(Head, self.head).dense(self.backbone(images))
