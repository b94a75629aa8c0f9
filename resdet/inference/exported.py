"""Exported models that predict as the models they were made from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.find import own_path
from resdet.config.loading import AnyConfig, config_from_dict, diff_configs, override_config
from resdet.errors import UserError
from resdet.files.exported import Description, read_description
from resdet.files.pixels import prepare_image
from resdet.files.rle import encode_bitmap
from resdet.hardware import Precision
from resdet.inference.combined import CombinedDetector
from resdet.inference.runtimes import OF_SUFFIX, Run, open_model
from resdet.models.classifier import Classifier
from resdet.models.predict import Predictor
from resdet.models.rcnn import RCNN, infer_prepared, split_by_image
from resdet.models.regions import RoIDetections
from resdet.structures import Detections, ImageBatch

log = logging.getLogger("resdet")

CPU = torch.device("cpu")


class ExportedDetector(Predictor[Detections]):
    """A detector from a file of ONNX, OpenVINO or torch.export; it has no parameters."""

    channel_order, channels_last = "rgb", False
    tile_scale: float | None = 1.0

    def __init__(
        self,
        path: Path,
        about: Description,
        run: Run,
        config: AnyConfig | None,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.path, self.about, self.run = path, about, run
        self.config = config
        self.class_names, self.category_ids = list(about.class_names), list(about.category_ids)
        self.size_divisibility, self.tile_scale = about.size_divisibility, about.tile_scale
        self.lowest_score = about.score_thresh or 0.0
        """What scores this or less is not in the outputs."""
        self.fixed_precision = precision

    @property
    def num_classes(self) -> int:
        return len(self.about.class_names)

    @property
    def has_masks(self) -> bool:
        return self.about.mask_paste is not None

    @property
    def device(self) -> torch.device:
        return CPU

    def place(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Stays on the CPU, whatever the device, with a warning."""
        if device.type != "cpu":
            log.warning("%s: exported models run on the CPU here, not on %s", self.path, device)

    def prepare(self, pixels: np.ndarray, *, is_tile: bool = False) -> Tensor:
        """(3, h, w) at the test size, 0..255, of `pixels` (H, W, 3) uint8 RGB; a tile of an image
        is resized by `tile_scale`. UserError where that is larger than the fixed size of the
        export."""
        resize = self.about.test_resize
        assert resize is not None, "a detector's description has it"
        factor = self.tile_scale if is_tile else None
        image = prepare_image(pixels, resize.short_edge, resize.max_size, resize.method, factor)
        _check_fits(self.path, self.about, image.shape[1], image.shape[2])
        return image

    def predict_prepared(
        self,
        images: Sequence[Tensor],
        original_sizes: Sequence[tuple[int, ...]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        return infer_prepared(self, images, original_sizes, score_thresh)

    def infer(
        self,
        images: ImageBatch,
        original_sizes: Sequence[tuple[int, int]],
        score_thresh: float | None = None,
    ) -> list[Detections]:
        """As `RCNN.infer`. UserError where `score_thresh` is below that of the export, and for
        images larger than its fixed size."""
        lowest = self.lowest_score
        if score_thresh is not None and score_thresh < lowest:
            raise UserError(
                f"{self.path}: the exported model leaves out what scores {lowest:g} or less, and "
                f"the score threshold is {score_thresh:g}; give at least {lowest:g}, or export a "
                "run with a lower model.score_thresh"
            )
        inputs = input_arrays(self.path, self.about, images)
        if self.about.pasted:
            found = [
                self._pasted({name: values[[row]] for name, values in inputs.items()}, size)
                for row, size in enumerate(original_sizes)
            ]
            return [one[one.scores > (score_thresh or 0.0)] for one in found]
        tensors = {name: torch.from_numpy(values) for name, values in self.run(inputs).items()}
        counts = tensors.pop("counts")
        keep = torch.arange(tensors["scores"].shape[1]) < counts[:, None]
        if score_thresh is not None:
            keep &= tensors["scores"] > score_thresh
        rows, slots = keep.nonzero(as_tuple=True)
        kept = {name: values[rows, slots] for name, values in tensors.items()}
        if self.has_masks:
            kept["mask_probs"] = kept.pop("masks")
        boxes, scores, labels = (kept.pop(name) for name in ("boxes", "scores", "labels"))
        batch = RoIDetections(boxes, scores, labels, rows, kept)
        return split_by_image(
            batch,
            images.sizes.cpu(),
            torch.tensor(list(original_sizes)),
            original_sizes,
            class_names=self.class_names,
            category_ids=self.category_ids,
            mask_paste=self.about.mask_paste or "continuous",
        )

    def _pasted(self, inputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Detections:
        """The detections of one image from an export that pastes: images of a batch would need
        the same original size."""
        outputs = self.run({**inputs, "original_sizes": np.array([size], np.int64)})
        count = int(outputs["counts"][0])
        boxes, scores, labels = (
            torch.from_numpy(outputs[name][0, :count]) for name in ("boxes", "scores", "labels")
        )
        rles = None
        if self.has_masks:
            codes = [encode_bitmap(mask, 0, 0, size) for mask in outputs["masks"][0, :count]]
            rles = [{"size": list(size), "counts": code.decode("ascii")} for code in codes]
        return Detections(
            boxes,
            scores,
            labels,
            image_size=size,
            class_names=self.class_names,
            category_ids=self.category_ids,
            rles=rles,
        )


def input_arrays(path: Path, about: Description, batch: ImageBatch) -> dict[str, np.ndarray]:
    """What an exported detector takes: the images of a batch, at the fixed size of the export where
    it has one, and their sizes. UserError for images that are larger."""
    images = batch.images.cpu()
    height, width = about.height or images.shape[2], about.width or images.shape[3]
    if images.shape[2:] != (height, width):
        down, across = batch.sizes.amax(dim=0).tolist()
        _check_fits(path, about, down, across)
        padded = images.new_zeros((len(images), 3, height, width))
        padded[:, :, :down, :across] = images[:, :, :down, :across]
        images = padded
    return {"images": images.contiguous().numpy(), "sizes": batch.sizes.cpu().numpy()}


def _check_fits(path: Path, about: Description, height: int, width: int) -> None:
    if height > (about.height or height) or width > (about.width or width):
        raise UserError(
            f"{path}: was exported for images of {about.height}×{about.width} pixels, and an image "
            f"has {height}×{width} at its test size; export the model with --dynamic, or give "
            "smaller tiles (--tile)"
        )


class ExportedBackbone(nn.Module):
    """An exported classifier from pixels (B, 3, S, S) 0..255 to the logarithms of its
    probabilities (B, K)."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.run({"images": images.to("cpu", torch.uint8).contiguous().numpy()})
        return torch.from_numpy(outputs["probabilities"]).log()


Exported = ExportedDetector | Classifier
AnyDetector = RCNN | CombinedDetector | ExportedDetector


def load_exported(
    path: str | Path, overrides: Sequence[str] = (), *, runtime: str | None = None
) -> Exported:
    """The model of a file of ONNX (.onnx), OpenVINO (.xml) or torch.export (.pt2), beside which
    its description is (.json).

    `overrides` change what of its config does not belong to the network; `runtime` onnxruntime runs
    a file of ONNX, its default, or openvino. UserError for a file that is damaged or does not
    belong to its description, for one whose runtime is not installed, and for overrides of what
    was exported.
    """
    file = own_path(path)
    about = read_description(file)
    config = _config(file, about, overrides)
    runtime = runtime or OF_SUFFIX[file.suffix.lower()][0]
    run = open_model(file, about, runtime)
    precision = Precision(about.precision, "export", f"as exported, in {runtime}")
    if about.task == "detection":
        return ExportedDetector(file, about, run, config, precision).eval()
    crop = about.crop
    assert crop is not None, "a classifier's description has it"
    assert config is None or isinstance(config, ClassificationConfig), "checked"
    model = Classifier(
        ExportedBackbone(run),
        nn.Identity(),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
        channel_order="rgb",
        channels_last=False,
        test_resize=crop.short_edge,
        test_size=crop.size,
        interpolation=crop.interpolation,
        class_names=about.class_names,
        config=config,
    )
    model.fixed_precision = precision
    return model.eval()


def _config(path: Path, about: Description, overrides: Sequence[str]) -> AnyConfig | None:
    """The config in the description, with overrides; None where it has none."""
    if about.config is None:
        if overrides:
            raise without_config(path)
        return None
    config = config_from_dict(about.config, f"{path}: the config in its description")
    schema = DetectionConfig if about.task == "detection" else ClassificationConfig
    if not isinstance(config, schema):
        raise UserError(
            f"{path}: is a model for {about.task} with a config for {config.task}; export it again"
        )
    if not overrides:
        return config
    changed = override_config(config, overrides, str(path))
    for key, _, _ in diff_configs(config, changed):
        if key.startswith(FIXED_KEYS):
            raise UserError(
                f"{path}: {key} was fixed when the model was exported; leave it out, or evaluate "
                f"the run ({about.source})"
            )
    return changed


def without_config(path: str | Path) -> UserError:
    return UserError(
        f"{path}: the description beside it has no config, which is needed to evaluate the model; "
        "export it again"
    )


FIXED_KEYS = (
    *("model.", "test.", "imports", "train.", "data.test_resize", "data.test_size"),
    *("data.interpolation", "eval.val_loss"),
)
"""Starts of config keys that an exported model doesn't follow."""
