"""Whether detectors fit together, and with the section `test` of a config."""

from collections.abc import Sequence

import torch
from torch import Tensor

from resdet.config.testing import TestConfig
from resdet.errors import UserError, first_few
from resdet.models.rcnn import RCNN
from resdet.models.regions import MergingBranch


def check_members(
    models: Sequence[RCNN], names: Sequence[str], test: TestConfig, *, has_pyramid: bool
) -> None:
    """UserError where the models, which messages call by `names`, cannot predict together."""
    try:
        test.check(has_pyramid)
    except ValueError as error:
        raise UserError(str(error)) from None
    first = models[0]
    for model, name in zip(models[1:], names[1:], strict=True):
        _check_classes(first.class_names, model.class_names, names[0], name)
        if model.has_masks and first.has_masks and model.mask_paste != first.mask_paste:
            raise UserError(
                f"{name}: its masks are pasted as model.roi.mask_head.paste={model.mask_paste}, "
                f"those of {names[0]} as {first.mask_paste}; give detectors of one kind"
            )
    is_single = test.num_views(has_pyramid) == 1 and len(models) == 1
    if is_single and (len(test.scales) < 2 or not test.is_adjacent(has_pyramid)):
        return
    for name, branch in first.roi_heads.branches.items():
        if not isinstance(branch, MergingBranch):
            raise UserError(
                f"model.roi.branches.{name}: {type(branch).__name__} does not say how its "
                "results of several views or detectors are merged; give it a method "
                "merge_views, or leave out test.scales, test.flip and further runs"
            )


def _check_classes(wanted: Sequence[str], given: Sequence[str], first: str, name: str) -> None:
    if list(given) == list(wanted):
        return
    missing = [each for each in wanted if each not in given]
    extra = [each for each in given if each not in wanted]
    if missing or extra or len(set(wanted)) < len(wanted):
        raise UserError(
            f"{name}: an ensemble needs the same classes, and those of {first} differ"
            + (f"; {name} lacks {first_few(missing)}" if missing else "")
            + (f"; {name} adds {first_few(extra)}" if extra else "")
            + "; give runs that were trained on the same classes"
        )


def class_orders(models: Sequence[RCNN]) -> list[Tensor]:
    """Of each model (K,) int64: its own label of each class of the first."""
    names = models[0].class_names
    return [
        torch.arange(len(names))
        if model.class_names == names
        else torch.tensor([model.class_names.index(name) for name in names])
        for model in models
    ]
