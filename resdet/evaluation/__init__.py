"""Metrics: one file per metric, one row in METRICS; those of detectors run without torch."""

from collections.abc import Callable
from typing import Any

from resdet.errors import NotRegistered, UserError
from resdet.evaluation.result import EvalSettings as EvalSettings
from resdet.evaluation.result import Evaluator as Evaluator
from resdet.evaluation.result import LeavesOut as LeavesOut
from resdet.evaluation.result import Result as Result


def _coco(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.coco import CocoEvaluator

    return CocoEvaluator(truth, settings)


def _lvis(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.lvis import LvisEvaluator

    return LvisEvaluator(truth, settings)


def _voc(metric: str) -> Callable[[Any, EvalSettings], Evaluator]:
    def build(truth: Any, settings: EvalSettings) -> Evaluator:
        from resdet.evaluation.voc import VocEvaluator

        return VocEvaluator(truth, settings, metric)

    return build


def _imagenet_det(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.imagenet_det import DetEvaluator

    return DetEvaluator(truth, settings)


def _imagenet_loc(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.imagenet_loc import LocEvaluator

    return LocEvaluator(truth, settings)


def _accuracy(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.classification import ClassificationEvaluator

    return ClassificationEvaluator(len(truth))


METRICS: dict[str, Callable[[Any, EvalSettings], Evaluator]] = {
    "coco": _coco,
    "lvis": _lvis,
    "voc07": _voc("voc07"),
    "voc12": _voc("voc12"),
    "imagenet_det": _imagenet_det,
    "imagenet_loc": _imagenet_loc,
    "accuracy": _accuracy,
}
"""By the name that `eval.metric` gives. The first argument is the ground truth: an AnnotationTable
for detectors, the class names for classifiers. A module named in `imports:` may add its own."""

OF_BOXES = frozenset(METRICS) - {"accuracy", "imagenet_loc"}
"""Those of ours that judge any number of boxes per image and class."""

_OF_DETECTORS = OF_BOXES | {"imagenet_loc"}
"""Those of ours; a user's own metric takes what it is made for."""


def build_evaluator(name: str, truth: Any, settings: EvalSettings | None = None) -> Evaluator:
    """The metric `name` on this ground truth; NotRegistered for an unknown name."""
    if name not in METRICS:
        raise NotRegistered(
            f"eval.metric: {name!r} is not a metric; the choices are {', '.join(METRICS)}"
        )
    is_detector, settings = hasattr(truth, "image_ids"), settings or EvalSettings()
    if name in ({"accuracy"} if is_detector else _OF_DETECTORS):
        kind = "classifiers" if is_detector else "detectors"
        raise UserError(f"eval.metric: {name!r} is for {kind}; remove the key, or give another")
    if settings.overlap != "inclusive" and name in _OF_DETECTORS - {"voc07", "voc12"}:
        raise UserError(
            f"eval.overlap: belongs to VOC's metrics, and eval.metric is {name!r}; set inclusive"
        )
    if settings.blacklist is not None and name in _OF_DETECTORS - {"imagenet_det", "imagenet_loc"}:
        raise UserError(
            f"eval.blacklist: belongs to ImageNet's metrics, and eval.metric is {name!r}; set null"
        )
    return METRICS[name](truth, settings)
