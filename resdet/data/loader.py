"""Batches: which images each step takes, and how they are padded together."""

import copy
import math
import multiprocessing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from resdet.data.detection.batches import collate
from resdet.data.workers import POLL_S, share_tensors, start_method, start_worker, watched
from resdet.errors import UserError
from resdet.files.findings import DataError

Key = tuple[int, int]
"""(epoch, index) of a sample. Where an image may come several times per epoch, at most R times, the
first number is epoch × R + r for its r-th time, so that no two of them draw the same
augmentation."""


Read = Callable[[Key], Any]
"""Gives the sample of a key; DataError where its image can't be read."""


class Samples(Protocol):
    """A data set: `collate` takes a list of what it gives for keys."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> Any:
        """A sample; DataError where its image can't be read or is not as annotated."""
        ...


class TrainSamples(Samples, Protocol):
    """A data set to train on, which must keep the place of an image that can't be read."""

    def unreadable(self, key: Key, problem: str) -> Any:
        """A sample without any weight in the losses."""
        ...


class TrainPlan:
    """Which samples each step takes: a pure function of (seed, step).

    Every epoch is a new permutation cut into ceil(num_images / batch_size) batches, so that each
    image comes at least once; a batch that lacks images takes the epoch's first ones (of its
    group, with aspect ratios) once more. With aspect ratios, batches are of landscape or of
    portrait images, except for at most one per epoch with the rest of both.

    With `repeats`, a batch has each of its images that many times, augmented differently
    (Hoffer et al. 2020). An epoch keeps its number of steps and so sees 1 / repeats of the images,
    as torchvision's and timm's samplers do. The repeats are batch_size / repeats positions apart,
    which spreads them over the processes; if that is not a whole number, some images come once
    less.

    With `factors`, each image comes so many times per epoch on average, as Gupta et al. 2019 sample
    rare classes: its whole part in every epoch, and once more with the chance of its fraction. The
    fractions are rounded together, so that every epoch has as many samples, their sum rounded up:
    one number from 0 to 1 is added to the running sum of the fractions in a random order of the
    images, and an image comes once more where that passes a whole number.

    Args:
        batch_size: images per update, over all processes, repeats included.
        aspect_ratios: (num_images,) width / height, or None for no grouping; not with `repeats`.
        factors: (num_images,) at least 1, or None for once each; not with `repeats`.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        aspect_ratios: NDArray[np.floating] | None = None,
        repeats: int = 1,
        factors: NDArray[np.floating] | None = None,
    ) -> None:
        assert num_images > 0 and batch_size > 0 and repeats > 0
        assert repeats == 1 or (aspect_ratios is None and factors is None)
        self.num_images = num_images
        self.repeats = repeats
        self.batch_size = batch_size
        self.seed = seed
        self.num_samples, self.factors = num_images, factors
        """Samples per epoch."""
        self.turns = repeats
        """R of `Key`."""
        if factors is not None:
            assert len(factors) == num_images and factors.min() >= 1
            self.num_samples = math.ceil(float(factors.sum()))
            self.turns = math.ceil(float(factors.max()))
        self.steps_per_epoch = -(-self.num_samples // batch_size)
        if aspect_ratios is None:
            self._is_portrait = np.zeros(num_images, np.bool_)
        else:
            assert len(aspect_ratios) == num_images
            self._is_portrait = np.asarray(aspect_ratios) < 1
        self._cached: tuple[int, NDArray[np.int64]] | None = None

    def batch(self, step: int) -> list[Key]:
        """The key of each image of the global batch of a step, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._epoch(epoch))
        turns, indices = (x.tolist() for x in np.divmod(self._cached[1][place], self.num_images))
        first = epoch * self.turns
        keys = [
            (first + r + turn, index)
            for r in range(self.repeats)
            for turn, index in zip(turns, indices, strict=True)
        ]
        return keys[: self.batch_size]

    def total_steps(self, epochs: float | None, max_steps: int | None) -> int:
        """Steps of a run of so many epochs, or of so many steps: one of the two is given."""
        if epochs is None:
            assert max_steps is not None, "the schema lets one of the two through"
            return max_steps
        return max(1, math.ceil(epochs * self.steps_per_epoch - 1e-6))

    def resized(self, batch_size: int) -> "TrainPlan":
        """The same samples in batches of another size."""
        plan = copy.copy(self)
        plan.batch_size, plan._cached = batch_size, None
        plan.steps_per_epoch = -(-self.num_samples // batch_size)
        return plan

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """(steps_per_epoch, batch_size / repeats, rounded up) image indices; for the r-th time of
        an image in this epoch with r × num_images added."""
        rng = np.random.default_rng(
            # (seed, epoch) alone would be the sequence of sample (seed, epoch, 0).
            np.random.SeedSequence((self.seed, epoch), spawn_key=(0,))
        )
        order = rng.permutation(self.num_images)
        if self.factors is not None:
            order = rng.permutation(self._repeated(order, rng.random()))
        is_portrait = self._is_portrait[order % self.num_images]
        size = -(-self.batch_size // self.repeats)
        if self.repeats > 1:
            return np.resize(order, (self.steps_per_epoch, size))
        full: list[NDArray[np.int64]] = []
        rests: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for group in (order[~is_portrait], order[is_portrait]):
            whole = len(group) // size * size
            full.extend(group[:whole].reshape(-1, size))
            if len(group) > whole:
                rests.append((group[whole:], group))
        # Landscape and portrait batches in random order, the incomplete ones last.
        mixed = rng.permutation(len(full)) if is_portrait.any() else range(len(full))
        batches = [full[i] for i in mixed]
        if len(rests) == 2 and len(rests[0][0]) + len(rests[1][0]) <= size:
            larger = max(rests, key=lambda rest: len(rest[0]))
            rests = [(np.concatenate([rests[0][0], rests[1][0]]), larger[1])]
        for rest, group in rests:
            batches.append(np.concatenate([rest, np.resize(group, size - len(rest))]))
        return np.stack(batches)

    def _repeated(self, order: NDArray[np.int64], start: float) -> NDArray[np.int64]:
        """(num_samples,) image indices in the `order` of the images, see `factors`; for the r-th
        time of an image with r × num_images added."""
        assert self.factors is not None
        factors = self.factors[order].astype(np.float64)
        whole = np.floor(factors)
        passed = np.floor(np.cumsum(factors - whole) + start)
        times = (whole + np.diff(passed, prepend=np.floor(start))).astype(np.int64)
        indices = np.repeat(order, times)
        turn = np.arange(len(indices)) - np.repeat(np.cumsum(times) - times, times)
        # one more where the sum of the factors has a fraction that was rounded down
        return np.resize(indices + turn * self.num_images, self.num_samples)


class _Batches(Dataset[Any]):
    """Makes whole batches in the workers: `DataLoader` asks for all keys of a batch at once."""

    def __init__(self, dataset: Samples, make: Callable[[Read, list[Key]], Any]) -> None:
        self.dataset, self.make = dataset, make
        self.made = multiprocessing.RawValue("L", 0)
        """Samples so far, by all workers."""

    def count(self) -> int:
        """As `made`, in the training process."""
        return int(self.made.value)

    def __getitems__(self, keys: list[Key]) -> Any:
        # Raised in a worker, an error would arrive as a traceback around the message.
        try:
            return self.make(self._read, keys)
        except UserError as error:
            return DataError(*error.args)

    def __getitem__(self, key: Key) -> Any:
        return self.__getitems__([key])

    def _read(self, key: Key) -> Any:
        self.made.value += 1
        return self.dataset[key]


def _train_batch(
    keep_place: Callable[[Key, str], Any],
    collate: Callable[[list[Any]], Any],
    read: Read,
    keys: list[Key],
) -> Any:
    """A batch in which images that can't be read keep their place, without any weight: all others
    are then what they would have been, in every process and after every resume."""

    def sample(key: Key) -> Any:
        try:
            return read(key)
        except DataError as error:
            return keep_place(key, str(error))

    return collate([sample(key) for key in keys])


def _eval_batch(
    collate: Callable[[list[Any]], Any], read: Read, keys: list[Key]
) -> tuple[Any, dict[int, str]]:
    """A batch of the images that can be read, None if there are none; and why others can't, by
    their positions."""
    samples, broken = [], {}
    for key in keys:
        try:
            samples.append(read(key))
        except DataError as error:
            broken[key[1]] = str(error)
    return (collate(samples) if samples else None), broken


def _as_is(batch: Any) -> Any:
    return batch


def _load(
    source: _Batches, keys: Iterable[list[Key]], workers: int, pin_memory: bool
) -> Generator[Any]:
    """Batches of the keys, in their order for any number of workers, which end when the generator
    is closed.

    Raises:
        DataError: a sample can't be made for another reason than its image.
        LoaderError: see `resdet.data.workers.watched`.
    """
    loader: DataLoader[Any] = DataLoader(
        source,
        batch_sampler=keys,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=share_tensors if workers else _as_is,
        pin_memory=pin_memory,
        timeout=POLL_S if workers else 0,
        worker_init_fn=start_worker,
        multiprocessing_context=start_method() if workers else None,
        # Of its own, so that starting workers takes nothing from the global random stream.
        generator=torch.Generator(),
    )
    for item in watched(loader, source.count) if workers else loader:
        if isinstance(item, UserError):
            raise item
        yield item


def _step_keys(
    plan: TrainPlan, steps: Iterable[int], rank: int, parts: int, size: int
) -> Iterator[list[Key]]:
    """The keys of this process's parts of the steps, in order."""
    for step in steps:
        keys = plan.batch(step)
        for begin in range(rank * parts * size, (rank + 1) * parts * size, size):
            yield keys[begin : begin + size]


def train_loader(
    dataset: TrainSamples,
    plan: TrainPlan,
    *,
    start_step: int,
    end_step: int,
    rank: int = 0,
    world_size: int = 1,
    accumulate: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    collate: Callable[[list[Any]], Any] = collate,
) -> Generator[list[Any]]:
    """This process's slice of each step from start_step to before end_step, in `accumulate` parts.

    The same tensors for any number of workers, and for any start. A batch is what `collate` makes
    of the samples: a `Batch` by default. An image that can't be read keeps its place, see
    `TrainSamples.unreadable`. Closing the generator ends its workers.

    Raises:
        DataError: the batch can't be split so, or a sample can't be made.
    """
    if plan.batch_size % (world_size * accumulate):
        raise DataError(
            f"train.batch_size {plan.batch_size} can't be split over {world_size} process(es) × "
            f"train.accumulate {accumulate}; give a multiple of {world_size * accumulate}"
        )
    size = plan.batch_size // (world_size * accumulate)
    keys = _step_keys(plan, range(start_step, end_step), rank, accumulate, size)
    source = _Batches(dataset, partial(_train_batch, dataset.unreadable, collate))
    batches = _load(source, keys, workers, pin_memory)
    return _in_parts(batches, accumulate)


def _in_parts(batches: Generator[Any], accumulate: int) -> Generator[list[Any]]:
    with closing(batches):
        for parts in zip(*[batches] * accumulate, strict=True):
            yield list(parts)


def eval_loader(
    dataset: Samples,
    *,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    collate: Callable[[list[Any]], Any] = collate,
    broken: dict[int, str],
    share: Sequence[int] | None = None,
) -> Generator[Any]:
    """Every image once over all processes: this one takes those at the positions `share`, in this
    order; for None each world_size-th, from `rank` on.

    Images that can't be read are in no batch: `broken` gets the reasons by their positions in the
    data set. Closing the generator ends its workers.

    Raises:
        DataError: a sample can't be made for another reason than its image.
    """
    own = range(rank, len(dataset), world_size) if share is None else share
    keys = [
        [(0, index) for index in own[first : first + batch_size]]
        for first in range(0, len(own), batch_size)
    ]
    source = _Batches(dataset, partial(_eval_batch, collate))
    with closing(_load(source, keys, workers, pin_memory)) as batches:
        for batch, problems in batches:
            broken.update(problems)
            if batch is not None:
                yield batch
