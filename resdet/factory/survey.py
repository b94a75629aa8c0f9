"""A look at the data of a config, after reading has checked them: images, objects, suggestions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resdet.config.classification import ClassificationConfig
from resdet.config.detection import DetectionConfig
from resdet.config.loading import AnyConfig
from resdet.files.findings import Finding, log_findings

if TYPE_CHECKING:
    from resdet.data.detection.suggestions import Suggestion
    from resdet.data.detection.survey import ObjectSurvey, View
    from resdet.data.plausibility import Images

logger = logging.getLogger("resdet")


@dataclass
class Part:
    """The images of data.train or data.val."""

    name: str
    data: Any
    """The data set."""
    objects: ObjectSurvey | None = None
    """Of detectors."""


@dataclass
class Survey:
    """What a look at the data gives beyond what reading reports."""

    parts: list[Part]
    findings: list[Finding] = field(default_factory=list)
    suggestions: list[Suggestion] = field(default_factory=list)
    repeat_threshold: float | None = None
    """The config's, or else the one that is suggested."""

    def log(self) -> None:
        """Findings as warnings, then suggestions."""
        log_findings(self.findings)
        for suggestion in self.suggestions:
            logger.info("suggestion: %s", suggestion)


def survey_data(config: AnyConfig, train: Any, val: Any) -> Survey:
    """Looks at the data sets of a config; images only where they were decoded (`decode_all`).

    Args:
        train, val: what the factory built; `val` is None without validation. CIFAR, whose images
            are known, has no survey.
    """
    from resdet.data.image_quality import find_alike_images, find_odd_images

    named = {"data.train": train, "data.val": val}
    parts = [
        Part(name, getattr(data, "untiled", data))
        for name, data in named.items()
        if hasattr(data, "looks")
    ]
    survey = Survey(parts)
    seen = [(located(part.data), part.data.looks) for part in parts]
    seen = [(images, looks) for images, looks in seen if looks is not None]
    for images, looks in seen:
        survey.findings += find_odd_images(images, looks)
    if seen:
        labels = None
        if isinstance(config, ClassificationConfig):
            labels = [part.data.labels for part in parts]
        survey.findings += find_alike_images(seen, labels)
    if isinstance(config, DetectionConfig):
        _survey_objects(config, survey)
    return survey


def located(data: Any) -> Images:
    """Where the images of a data set are."""
    holder = data if hasattr(data, "located") else data.source
    images: Images = holder.located()
    return images


def _survey_objects(config: DetectionConfig, survey: Survey) -> None:
    from resdet.data.detection.suggestions import REPEAT_KEY, suggest
    from resdet.data.detection.survey import ObjectSurvey

    view = _view(config)
    for part in survey.parts:
        part.objects = ObjectSurvey(part.data.table, part.data.rows, view, len(part.data))
        survey.findings += part.objects.findings(is_train=part.name == "data.train")
        if part.name == "data.train":
            survey.repeat_threshold = config.data.repeat_threshold
            survey.suggestions += suggest(
                part.objects, repeat_threshold=config.data.repeat_threshold
            )
            for each in survey.suggestions:
                if REPEAT_KEY in each.keys:
                    survey.repeat_threshold = float(each.keys[REPEAT_KEY])


def _view(config: DetectionConfig) -> View:
    from resdet.data.detection.anchors import Anchors
    from resdet.data.detection.survey import View

    resize, model = config.data.augment.resize, config.model
    edges = sorted(resize.short_edges)
    short, long = edges[len(edges) // 2], resize.max_size
    is_square = resize.mode == "large_scale_jitter"
    if is_square:
        short = long = resize.lsj_size
    sizes = [
        list(level) if isinstance(level, list) else [level] for level in model.rpn.anchor_sizes
    ]
    if model.fpn is not None:
        strides = [4 * 2**level for level in range(len(sizes))]  # p2 and up
    else:
        is_c5 = model.roi.box_head.type == "fc" and model.backbone.res5_dilation != 2
        strides = [32 if is_c5 else 16] * len(sizes)
    anchors = Anchors(sizes, model.rpn.aspect_ratios, strides)
    tile = None if config.data.tile is None else config.data.tile.size
    most = model.detections_per_image
    return View(short, long, anchors, most, is_square, model.nms_thresh, tile)
