"""A classifier's test-time views (one crop, ten, or all of it at several scales) and ensembles.

Views of one image are averaged after the softmax (Krizhevsky et al. 2012, 4.1). A dense view is
averaged over the positions of its map before the softmax, and over scales and mirror images after
it (Simonyan & Zisserman 2015, 3.2; He et al. 2016, 3.4).
"""

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resdet.errors import UserError
from resdet.evaluation.classification import Scores
from resdet.files.findings import DataError
from resdet.inference.pictures import run_ahead
from resdet.models.classifier import Classifier
from resdet.models.views import Views, view_logits

WAITING = 8
"""Batches' worth of pixels that wait for others of their size."""


class Images(Protocol):
    """What of a data set is used here."""

    broken: list[str]

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def read(self, index: int) -> NDArray[np.uint8]: ...


@dataclass
class _Stack:
    """Pictures of one image and one size."""

    index: int
    """The image's position in the data set."""
    part: int
    """Which of the image's stacks."""
    views: Tensor
    """(V, 3, h, w) uint8 RGB."""


class _Queues:
    """Stacks that wait for others of their size, with which they share a batch."""

    def __init__(self, budget: int) -> None:
        """`budget` is the number of pixels of a batch."""
        self._budget = budget
        self._queues: dict[tuple[int, ...], deque[_Stack]] = defaultdict(deque)

    def add(self, stack: _Stack) -> None:
        self._queues[tuple(stack.views.shape)].append(stack)

    def take(self, *, all_read: bool) -> list[_Stack]:
        """The next batch; empty where it is better to wait for more images."""
        pixels = {shape: len(queue) * _area(shape) for shape, queue in self._queues.items()}
        if not pixels:
            return []
        shape = max(pixels, key=lambda shape: pixels[shape])
        crowded = sum(pixels.values()) > WAITING * self._budget
        if pixels[shape] < self._budget and not crowded and not all_read:
            return []
        queue = self._queues[shape]
        count = min(len(queue), max(1, self._budget // _area(shape)))
        batch = [queue.popleft() for _ in range(count)]
        if not queue:
            del self._queues[shape]
        return batch


def _area(shape: tuple[int, ...]) -> int:
    views, _, height, width = shape
    return views * height * width


def score_images(
    model: Classifier, dataset: Images, views: Views, *, batch_size: int, workers: int
) -> Iterator[tuple[int, Tensor | DataError]]:
    """(index, scores (K,) float32 on the CPU) of every image, in an order of its own.

    The scores are logits for one view, else the logarithm of the mean softmax of the views. An
    image that cannot be read comes as its error. `workers` threads read ahead and cut the views.
    Only pictures of one size share a batch, of up to the pixels of `batch_size` crops: padding
    would change the numbers. The model is in evaluation mode, and gradients are off.
    """
    queues = _Queues(batch_size * views.size**2)
    done: dict[int, dict[int, Tensor]] = defaultdict(dict)

    def run(batch: list[_Stack]) -> Iterator[tuple[int, Tensor]]:
        pictures = torch.cat([stack.views for stack in batch])
        logits = view_logits(model, pictures, dense=views.crops == "dense").cpu()
        for stack, each in zip(batch, logits.unflatten(0, (len(batch), -1)), strict=True):
            parts = done[stack.index]
            parts[stack.part] = each
            if len(parts) == max(1, len(views.scales)):
                # always in the order of the stacks, whichever came first
                every = torch.cat([parts[part] for part in sorted(done.pop(stack.index))])
                yield stack.index, every[0] if len(every) == 1 else log_mean_softmax(every)

    tasks = (partial(_cut, dataset, views, index) for index in range(len(dataset)))
    with closing(run_ahead(tasks, workers)) as futures:
        for future in futures:
            index, stacks = future.result()
            if isinstance(stacks, DataError):
                yield index, stacks
                continue
            for part, stack in enumerate(stacks):
                queues.add(_Stack(index, part, stack))
            while batch := queues.take(all_read=False):
                yield from run(batch)
    while batch := queues.take(all_read=True):
        yield from run(batch)


def _cut(dataset: Images, views: Views, index: int) -> tuple[int, list[Tensor] | DataError]:
    """An image's views, or why it cannot be read."""
    try:
        return index, views(dataset.read(index))
    except DataError as error:
        return index, error


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Logits (V, …, K) of V answers → the logarithm (…, K) of the mean of their softmax.

    Probabilities too small for a float stay apart in the logarithm. Softmax of the result is the
    mean again, so that means can be taken of means.
    """
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def ensemble(scores: Sequence[Scores], names: Sequence[str]) -> Scores:
    """The mean softmax of several classifiers on the same images (Krizhevsky et al. 2012, 6).

    `names` are how messages call them. Raises UserError where classes, files or labels differ.
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
    return replace(first, logits=mean)
