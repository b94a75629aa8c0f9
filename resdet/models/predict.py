"""What trained detectors and classifiers share: their device, precision and predictions."""

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from resdet.config.find import own_path
from resdet.errors import UserError
from resdet.files.download import is_address, read_address, without_password
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import ImageInput, to_rgb
from resdet.files.scale import UNKNOWN, Seen
from resdet.files.windows import open_windows
from resdet.hardware import Precision, choose_precision
from resdet.models.tiles import make_tiling, predict_tiles
from resdet.ops.pixels import normalize_pixels
from resdet.ops.tiles import OVERLAP, Tiling
from resdet.structures import Classification, Detections

log = logging.getLogger("resdet")

Prediction = TypeVar("Prediction", Detections, Classification)
T = TypeVar("T")


class Predictor(nn.Module, ABC, Generic[Prediction]):
    """A network with the buffer `pixel_mean`, that predicts on images in their own sizes."""

    config: Any
    """The config it was made from; None without one."""
    channel_order: str
    """rgb or bgr, that of the network's input."""
    channels_last: bool
    precision: str | None = None
    """What `resdet.load` was asked for; None takes train.precision of the config."""
    is_imported: bool = False
    """Whether the weights are another toolkit's, whose numbers are those of fp32."""

    fixed_precision: Precision | None = None
    """Of an exported model, whose precision can't be chosen any more."""

    seen: Seen = UNKNOWN
    """How large a detector's objects were in training."""

    tile_scale: float | None = None
    """By what factor a detector resizes the tiles of large images: that of `data.test_resize` for
    the median training image, so that objects have the size that it learned; None for models that
    cannot predict in tiles."""

    def size_problem(self, size: tuple[int, int]) -> str | None:
        """Why objects of an image of (height, width) would be missed; None if nothing is known."""
        return None

    def set_input(
        self,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        channel_order: str,
        *,
        channels_last: bool,
    ) -> None:
        """How images are normalised: `pixel_mean` and `pixel_std` (3,) are 0..255, in the order of
        channels rgb or bgr."""
        self.channel_order, self.channels_last = channel_order, channels_last
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], False)

    @property
    def device(self) -> torch.device:
        return self.get_buffer("pixel_mean").device

    @property
    def max_pixels(self) -> int:
        """The largest image that is read: data.max_pixels of the config."""
        return MAX_PIXELS if self.config is None else int(self.config.data.max_pixels)

    def place(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Move to a device and number format, in the memory layout that `normalize` gives."""
        self.to(device, dtype)
        if self.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def to_input(self, images: Tensor, mean: Tensor | None = None) -> Tensor:
        """Pixels (B, 3, H, W) 0..255, uint8 or float, RGB → normalised, in the network's order of
        channels and memory layout; `mean` replaces `pixel_mean`."""
        if self.channel_order == "bgr":
            images = images.flip(1)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        mean = self.get_buffer("pixel_mean") if mean is None else mean
        return normalize_pixels(images, mean, self.get_buffer("pixel_std"))

    @abstractmethod
    def prepare(self, pixels: np.ndarray) -> Any:
        """(H, W, 3) uint8 RGB → (3, h, w), 0..255, at the size that the network sees; or a tuple
        of these, where it is tested at several sizes."""

    @abstractmethod
    def predict_prepared(
        self,
        images: Sequence[Any],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Prediction]:
        """Predictions on the CPU of one batch from `prepare`, within `inference_mode`."""

    def predict(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        score_thresh: float | None = None,
        batch_size: int = 1,
        precision: str | None = None,
        channel_order: str = "rgb",
        max_pixels: int | None = None,
        tile: int | None = None,
        overlap: float | None = None,
    ) -> Prediction | list[Prediction]:
        """`Detections` in pixels of each original image, or the `Classification` of its centre
        crop, on the CPU; a list for a list of images.

        An image is a path, an http or https address, a Pillow image, or an (H, W, 3) uint8 array,
        whose channels are RGB or, with `channel_order` bgr, OpenCV's BGR. Predictions that score at
        or below `score_thresh` (0..1) are left out; None is a detector's own threshold, and the
        five best classes. `precision` is auto, fp32, bf16 or fp16 for this call; None as in
        `precision_of`. The training mode is as before afterwards, and several threads may predict
        with one model, each with its own options. Images of more than `max_pixels`, other than
        arrays, are refused; None is the limit of `max_pixels` in the config. Raises UserError that
        names the image which cannot be used, and its position in the list.

        With `tile`, a side in pixels, images are cut into tiles that overlap by the share `overlap`
        of it (0 to .9; None is .2), `batch_size` of them are predicted at a time, and their
        detections are merged. None takes data.tile of the config, 0 predicts on whole images. A
        TIFF file of tiles or strips is then read piece by piece, without a limit on its pixels.
        """
        if not isinstance(batch_size, Integral) or batch_size < 1:
            raise UserError(f"batch_size is {batch_size!r}; give a whole number from 1")
        if score_thresh is not None and not (
            isinstance(score_thresh, Real) and 0 <= score_thresh <= 1
        ):
            raise UserError(f"score_thresh is {score_thresh!r}; give a score from 0 to 1")
        if channel_order not in ("rgb", "bgr"):
            raise UserError(f"channel_order is {channel_order!r}; give 'rgb' or 'bgr'")
        tiling = self.tiling(tile, overlap)
        is_list = isinstance(images, Sequence) and not isinstance(images, str)
        all_images: Sequence[Any] = images if is_list else [images]  # type: ignore[assignment]
        inputs = _Inputs(all_images, channel_order, max_pixels or self.max_pixels)
        with inference_mode(self, precision):
            if tiling is None:
                predictions = self._predict_whole(inputs, batch_size, score_thresh)
            else:
                predictions = self._predict_tiled(inputs, batch_size, score_thresh, tiling)
        return predictions if is_list else predictions[0]

    def tiling(
        self,
        tile: int | None,
        overlap: float | None,
        keys: tuple[str, str] = ("tile", "overlap"),
    ) -> Tiling | None:
        """The tiles of `predict`; None for whole images. UserError, which names the `keys`, for
        values that make no tiles, and for a model that cannot predict in tiles."""
        section = getattr(getattr(self.config, "data", None), "tile", None)
        if tile == 0 or (tile is None and section is None):
            if overlap is not None:
                raise UserError(f"{keys[1]} belongs to tiles; give {keys[0]} too, such as 1024")
            return None
        if self.tile_scale is None:
            raise UserError(f"{keys[0]}: only detectors predict in tiles; leave it out")
        own: Tiling = section.tiling if section is not None else Tiling(0, OVERLAP)
        size = own.size if tile is None else tile
        return make_tiling(size, own.overlap if overlap is None else overlap, keys)

    def _predict_whole(
        self, inputs: "_Inputs", batch_size: int, thresh: float | None
    ) -> list[Prediction]:
        """Predictions of whole images."""
        predictions: list[Prediction] = []
        for start in range(0, len(inputs.images), batch_size):
            batch = inputs.images[start : start + batch_size]
            arrays = [inputs.read(position, to_rgb) for position, _ in enumerate(batch, start)]
            prepared = [self.prepare(array) for array in arrays]
            sizes = [array.shape[:2] for array in arrays]
            for position, size in enumerate(sizes, start):
                if (problem := self.size_problem(size)) is not None:
                    log.warning("%s: %s", inputs.name(position), problem)
            predictions += self.predict_prepared(prepared, sizes, thresh)
        return predictions

    def _predict_tiled(
        self, inputs: "_Inputs", batch_size: int, thresh: float | None, tiling: Tiling
    ) -> list[Prediction]:
        """Predictions of images in tiles."""
        model: Any = self  # a detector, as `tiling` has checked
        predictions: list[Any] = []
        for position in range(len(inputs.images)):
            windows = inputs.read(position, open_windows)
            with inputs.naming(position):
                merged = predict_tiles(
                    *(model, windows, tiling),
                    score_thresh=thresh,
                    batch_size=batch_size,
                    name=inputs.name(position),
                )
            predictions.append(merged)
        return predictions


@dataclass(frozen=True)
class _Inputs:
    """The images of a call, which are read as they are needed."""

    images: Sequence[Any]
    channel_order: str
    """Of arrays: rgb or bgr."""
    max_pixels: int
    """Of images that are decoded whole."""

    def name(self, position: int) -> str:
        """How messages call an image."""
        image = self.images[position]
        if not isinstance(image, str | Path):
            return "the image"
        return without_password(str(image)) if is_address(image) else str(image)

    def read(self, position: int, read: Callable[[ImageInput, int], T]) -> T:
        """What `read` makes of an image; its UserErrors name the position in a list of several."""
        image = self.images[position]
        with self.naming(position):
            if self.channel_order == "bgr" and isinstance(image, np.ndarray) and image.ndim == 3:
                image = image[:, :, ::-1]
            return read(_file(image, self.max_pixels), self.max_pixels)

    @contextmanager
    def naming(self, position: int) -> Iterator[None]:
        """UserErrors that name the position of an image in a list of several."""
        try:
            yield
        except UserError as error:
            if len(self.images) == 1:
                raise
            raise UserError(f"image {position} of the list: {error}") from error


def _file(image: ImageInput, max_pixels: int) -> ImageInput:
    """An image as it was given, with the home folder in place of ~, and the pixels of an address;
    UserError for a folder."""
    if not isinstance(image, str | Path):
        return image
    if is_address(image):
        return read_address(str(image), max_pixels)
    path = own_path(image)
    if os.path.isdir(path):  # noqa: PTH112  # pathlib raises for long names
        raise UserError(
            f"{path}: is a folder; give a list of the images in it, or use the command predict"
        )
    return path


@contextmanager
def inference_mode(model: Predictor[Any], precision: str | None = None) -> Iterator[None]:
    """Evaluation mode without gradients in the precision of `precision_of`.

    Several threads may be inside with the same modules: the training mode is restored when the last
    one leaves.
    """
    chosen = precision_of(model, precision)
    # Not torch.inference_mode: what a module caches there could not be trained with later.
    with _evaluating(list(model.modules())), torch.no_grad(), chosen.autocast():
        yield


_EVALUATING: dict[nn.Module, tuple[int, bool]] = {}
"""Modules in use for inference: by how many threads, and their training mode before the first."""
_LOCK = threading.Lock()


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    with _LOCK:
        for module in modules:
            users, training = _EVALUATING.get(module, (0, module.training))
            _EVALUATING[module] = users + 1, training
            module.training = False
    try:
        yield
    finally:
        with _LOCK:
            for module in modules:
                users, training = _EVALUATING.pop(module)
                if users > 1:
                    _EVALUATING[module] = users - 1, training
                else:
                    module.training = training


def precision_of(model: Predictor[Any], wanted: str | None = None) -> Precision:
    """The precision a trained model computes in: `wanted`, else what `resdet.load` was asked for,
    else train.precision of its config (fp32 without a config).

    A config that trained in fp16 on a GPU counts as auto on a CPU, which has no fp16. UserError for
    an exported model of which another precision is wanted.
    """
    if model.fixed_precision is not None:
        if wanted or model.precision:
            raise UserError(
                f"precision: {wanted or model.precision}, and an exported model computes in the "
                f"precision that it was exported in, {model.fixed_precision.name}; leave it out, "
                "or export the model again with --precision"
            )
        return model.fixed_precision
    key, asked = "precision", wanted or model.precision
    if asked is None:
        key, asked = "train.precision", "fp32"
        if model.config is not None:
            asked = model.config.train.precision
        if asked == "fp16" and model.device.type != "cuda":
            asked = "auto"
    return choose_precision(asked, model.device, key=key, is_imported=model.is_imported)
