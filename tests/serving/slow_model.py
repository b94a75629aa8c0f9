"""A model whose network waits for the test."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resdet.models.predict import Predictor
from resdet.structures import Detections


class SlowModel(Predictor[Detections]):
    """One detection per image, at its red value; a batch is computed when `go` is set.

    An image whose green value is 255 makes the network fail.
    """

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.set_input((0, 0, 0), (1, 1, 1), "rgb", channels_last=False)
        self.class_names = ["thing"]
        self.go, self.started = threading.Event(), threading.Event()
        self.go.set()
        self.batches: list[list[int]] = []
        """The red values of the images of each batch."""

    def prepare(self, pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels[0, 0].copy())

    def predict_prepared(
        self,
        images: Sequence[Any],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        self.batches.append([int(image[0]) for image in images])
        self.started.set()
        assert self.go.wait(30)
        if any(int(image[1]) == 255 for image in images):
            raise RuntimeError("a bug of the network")
        return [
            Detections(
                torch.tensor([[float(image[0]), 0.0, 1.0, 1.0]]),
                torch.tensor([0.9]),
                torch.tensor([0]),
                image_size=(int(size[0]), int(size[1])),
                class_names=self.class_names,
            )
            for image, size in zip(images, original_sizes, strict=True)
        ]
