"""Whether an exported model gives the numbers of the model that it was made from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.coco import CocoEvaluator
from resdet.export.compare import Differences, compare, compare_classes
from resdet.export.images import Images
from resdet.inference.exported import ExportedDetector, input_arrays, load_exported
from resdet.inference.runtimes import OF_SUFFIX
from resdet.models.classifier import Classifier
from resdet.models.predict import inference_mode
from resdet.models.rcnn import RCNN
from resdet.structures import Classification, Detections, ImageBatch, collate_images
from resdet.viz.tables import print_table

logger = logging.getLogger("resdet")

EAGER = "torch, eager"
UNPADDED = "torch, less padding"
"""Eager torch without the padding of a fixed size: for information, no limit counts."""
TOP_1 = "top-1"
ABSENT = -1
"""The id of a class that the ground truth lacks; its detections are left out."""
TRUE_SCORE = 0.5
"""Detections of the eager model above it stand for the truth where there is none."""


@dataclass(frozen=True)
class Limits:
    """The differences that pass; None does not count."""

    box: float | None = 0.05
    """Pixels of the network's input."""
    score: float | None = 1e-3
    """Of scores, probabilities of classes and mask probabilities."""
    mask_iou: float | None = 0.98
    """The smallest, where the export pastes its masks."""
    ap: float | None = 0.001
    """How much lower AP may be, 0..1; of classifiers, the share of images with another class."""


LIMITS = {
    "fp32": Limits(),
    "fp16": Limits(None, None, None, 0.01),
    "int8": Limits(None, None, None, 0.01),
}
"""By precision."""


@dataclass
class CheckResult:
    """How far each runtime is from the eager model."""

    differences: dict[str, Differences]
    """By runtime."""
    ap: dict[str, dict[str, float]]
    """By runtime and the eager model, and by bbox and segm: AP; of classifiers, by top-1, the share
    of images with the class of the eager model."""
    problems: list[str] = field(default_factory=list)
    """What passed a limit."""

    @property
    def failure(self) -> str | None:
        """What is wrong; None for a model that passes."""
        return "; ".join(self.problems) or None


def check(
    model: RCNN | Classifier, out: Path, images: Images, limits: Limits | None = None
) -> CheckResult:
    """Run the eager model in fp32 and the export in every runtime that can, print a table of the
    largest differences and of AP, and compare them with `limits`, by default those of the precision
    of the export. Images that can't be read are an error.
    """
    runtimes = [name for name in OF_SUFFIX[out.suffix.lower()] if find_spec(name) is not None]
    exported: dict[str, Any] = {name: load_exported(out, runtime=name) for name in runtimes}
    for name in OF_SUFFIX[out.suffix.lower()]:
        if name not in runtimes:
            logger.warning("%s: not checked in %s, which is not installed", out, name)
    precision = next(iter(exported.values())).fixed_precision
    assert precision is not None, "every exported model has it"
    limits = limits or LIMITS[precision.name]
    if isinstance(model, Classifier):
        result = _check_classifier(model, exported, images)
    else:
        result = _check_detector(model, exported, images)
    result.problems = _problems(result, limits)
    _print(result, len(images), isinstance(model, Classifier), images.truth is not None)
    return result


def _check_detector(
    model: RCNN, exported: Mapping[str, ExportedDetector], images: Images
) -> CheckResult:
    thresh, limit = model.roi_heads.score_thresh, model.roi_heads.detections_per_image
    any_of = next(iter(exported.values()))
    others = [*([UNPADDED] if any_of.about.height is not None else []), *exported]
    differences = {name: Differences() for name in others}
    kept: dict[str, list[Detections]] = {name: [] for name in (EAGER, *others)}
    for index in range(len(images)):
        pixels = images.read(index)
        size: tuple[int, int] = pixels.shape[:2]  # type: ignore[assignment]
        batch = collate_images([model.prepare(pixels)], model.size_divisibility)
        # a fixed size pads more than eager torch does, which changes what a network sees there
        padded = input_arrays(any_of.path, any_of.about, batch)
        predictions = {}
        with inference_mode(model, "fp32"):
            same = ImageBatch(*map(torch.from_numpy, (padded["images"], padded["sizes"])))
            (reference,) = model.infer(same, [size])
            if UNPADDED in differences:
                (predictions[UNPADDED],) = model.infer(batch, [size])
        for name, other in exported.items():
            with inference_mode(other):
                (predictions[name],) = other.predict_prepared([other.prepare(pixels)], [size])
        scale = float((batch.sizes[0] / torch.tensor(size)).max())
        for name, one in predictions.items():
            differences[name].add(compare(reference, one, thresh=thresh, limit=limit, scale=scale))
            kept[name].append(one)
        kept[EAGER].append(reference)
    return CheckResult(differences, _average_precision(kept, images))


def _check_classifier(
    model: Classifier, exported: Mapping[str, Classifier], images: Images
) -> CheckResult:
    differences = {name: Differences() for name in exported}
    same = dict.fromkeys(exported, 0)
    for index in range(len(images)):
        pixels = images.read(index)
        (reference,) = _classify(model, pixels, "fp32")
        for name, other in exported.items():
            (one,) = _classify(other, pixels)
            same[name] += int(one.labels[0] == reference.labels[0])
            differences[name].add(compare_classes(reference, one))
    shares = {name: {TOP_1: number / len(images)} for name, number in same.items()}
    return CheckResult(differences, {EAGER: {TOP_1: 1.0}} | shares)


def _classify(
    model: Classifier, pixels: np.ndarray, precision: str | None = None
) -> list[Classification]:
    with inference_mode(model, precision):
        return model.predict_prepared([model.prepare(pixels)], [pixels.shape[:2]])


def _average_precision(
    kept: Mapping[str, list[Detections]], images: Images
) -> dict[str, dict[str, float]]:
    """AP by model and by bbox and segm: against the ground truth, else against the detections of
    the eager model above `TRUE_SCORE`; empty where there are none."""
    truth = images.truth or _as_truth(kept[EAGER])
    if truth is None:
        return {}
    numbers: dict[str, dict[str, float]] = {}
    by_name = dict(zip(truth.class_names, truth.category_ids, strict=True))
    for name, predictions in kept.items():
        evaluator = CocoEvaluator(truth)
        ids = [by_name.get(each, ABSENT) for each in predictions[0].class_names]
        named = [replace(one, category_ids=ids) for one in predictions]
        evaluator.update(list(truth.image_ids), named)
        summary = evaluator.compute().summary
        numbers[name] = {str(kind): values["AP"] for kind, values in summary.items()}
    return numbers


def _as_truth(predictions: Sequence[Detections]) -> AnnotationTable | None:
    records: list[dict[str, Any]] = []
    sizes = []
    for row, one in enumerate(predictions, 1):
        height, width = one.image_size
        sizes.append({"id": row, "file_name": f"{row}", "height": height, "width": width})
        records += one[one.scores > TRUE_SCORE].to_coco(row)
    if not records:
        return None
    for number, record in enumerate(records, 1):
        width, height = record["bbox"][2:]
        record |= {"id": number, "area": width * height, "iscrowd": 0}
    first = predictions[0]
    categories = [
        {"id": category, "name": name}
        for category, name in zip(first.category_ids, first.class_names, strict=True)
    ]
    content = {"images": sizes, "annotations": records, "categories": categories}
    return read_annotations(content, [], format="coco")


def _problems(result: CheckResult, limits: Limits) -> list[str]:
    problems = []
    for name, differences in result.differences.items():
        if name == UNPADDED:
            continue
        for what, limit in (
            ("box", limits.box),
            ("score", limits.score),
            ("mask", limits.score),
        ):
            value = getattr(differences, what)
            if limit is not None and value is not None and value > limit:
                problems.append(f"{name}: the largest difference of {what} is {value:.3g}, which "
                                f"passes {limit:g}")  # fmt: skip
        iou = differences.mask_iou
        if limits.mask_iou is not None and iou is not None and iou < limits.mask_iou:
            problems.append(f"{name}: masks overlap by {iou:.3g}, which is below {limits.mask_iou}")
        if limits.score is not None and differences.unmatched:
            problems.append(f"{name}: {differences.unmatched} detections are unmatched")
        for kind, ap in result.ap.get(name, {}).items():
            loss = result.ap[EAGER][kind] - ap
            if limits.ap is not None and loss > limits.ap + 1e-9:
                problems.append(f"{name}: {kind} is {loss:.4f} lower, which passes {limits.ap:g}")
    return problems


def _print(result: CheckResult, count: int, classifies: bool, has_truth: bool) -> None:
    kinds = list(next(iter(result.ap.values()), {}))
    header = ["runtime", "matched", "unmatched", "box, px", "score", "mask"]
    if classifies:
        header = ["runtime", "images", "probability"]
        titles = ["top-1 of the eager model"]
    else:
        titles = [f"AP {kind}" for kind in kinds]
    rows = []
    for name in (EAGER, *result.differences):
        aps = [f"{result.ap[name][kind]:.4f}" for kind in kinds]
        if name == EAGER:
            rows.append([name, *["–"] * (len(header) - 1), *aps])
            continue
        one = result.differences[name]
        cells = [str(one.matched), str(one.unmatched), f"{one.box:.2g}", f"{one.score:.2g}"]
        if one.mask_iou is not None:
            cells.append(f"IoU {one.mask_iou:.3f}")
        else:
            cells.append("–" if one.mask is None else f"{one.mask:.2g}")
        if classifies:
            cells = [str(one.matched), f"{one.score:.2g}"]
        rows.append([name, *cells, *aps])
    print_table(f"largest differences from torch on {count} images", [*header, *titles], rows)
    if not classifies and not has_truth:
        what = f"the truth is the eager model's detections that score above {TRUE_SCORE:g}"
        print(f"AP: {what}" if kinds else f"AP: not computed, since {what}, and there are none")
