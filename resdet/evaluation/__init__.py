"""Metrics: one file per metric, one row in METRICS; those of detectors run without torch."""

from collections.abc import Callable
from typing import Any

from resdet.errors import NotRegistered, UserError
from resdet.evaluation.result import EvalSettings as EvalSettings
from resdet.evaluation.result import Evaluator as Evaluator
from resdet.evaluation.result import Result as Result


def _coco(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.coco import CocoEvaluator

    return CocoEvaluator(truth, settings)


def _lvis(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.lvis import LvisEvaluator

    return LvisEvaluator(truth, settings)


def _accuracy(truth: Any, settings: EvalSettings) -> Evaluator:
    from resdet.evaluation.classification import ClassificationEvaluator

    return ClassificationEvaluator(len(truth))


METRICS: dict[str, Callable[[Any, EvalSettings], Evaluator]] = {
    "coco": _coco,
    "lvis": _lvis,
    "accuracy": _accuracy,
}
"""By the name that `eval.metric` gives. The first argument is the ground truth: an AnnotationTable
for detectors, the class names for classifiers. A module named in `imports:` may add its own."""


def build_evaluator(name: str, truth: Any, settings: EvalSettings | None = None) -> Evaluator:
    """The metric `name` on this ground truth; NotRegistered for an unknown name."""
    if name not in METRICS:
        raise NotRegistered(
            f"eval.metric: {name!r} is not a metric; the choices are {', '.join(METRICS)}"
        )
    is_detector = hasattr(truth, "image_ids")
    if (name == "accuracy" and is_detector) or (name in ("coco", "lvis") and not is_detector):
        kind = "classifiers" if is_detector else "detectors"
        raise UserError(f"eval.metric: {name!r} is for {kind}; remove the key, or give another")
    return METRICS[name](truth, settings or EvalSettings())
