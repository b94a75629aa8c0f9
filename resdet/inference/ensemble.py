"""Several answers on one image made into one: the mean of their softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from resdet.errors import UserError
from resdet.evaluation.classification import Scores


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Logits (V, …, K) of V answers → the logarithm (…, K) of the mean of their softmax.

    Probabilities too small for a float stay apart in the logarithm. Softmax of the result is the
    mean again, so that means can be taken of means.
    """
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def ensemble(scores: Sequence[Scores], names: Sequence[str]) -> Scores:
    """The mean softmax of several classifiers on the same images (Krizhevsky et al. 2012, 6).

    `names` are how messages call them. Raises
    UserError where classes, files or labels differ.
    """
    first = scores[0]
    for other, name in zip(scores[1:], names[1:], strict=True):
        for what, same in (
            ("classes", other.class_names == first.class_names),
            ("images", other.files == first.files),
            ("labels", np.array_equal(other.labels, first.labels)),
        ):
            if not same:
                raise UserError(
                    f"an ensemble needs the same {what}: those of {name} are not those of "
                    f"{names[0]}; give both the same data, as data.val.root=FOLDER"
                )
    # in parts: a stack of all logits of all models could fill the memory
    mean = np.empty_like(first.logits)
    for start in range(0, len(mean), 4096):
        part = slice(start, start + 4096)
        stacked = torch.stack([torch.from_numpy(each.logits[part]) for each in scores])
        mean[part] = log_mean_softmax(stacked).numpy()
    return Scores(mean, first.labels, first.files, first.class_names, first.broken)
