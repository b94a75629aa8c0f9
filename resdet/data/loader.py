"""Batches: which images a step takes, and how they are padded together."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
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
"""(epoch, index) of a sample. With repeated augmentation the first number is epoch × repeats + r
for the r-th of an image's repeats, so that no two of them draw the same augmentation."""


class Samples(Protocol):
    """A data set: `collate` takes a list of what it gives for keys."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: Key) -> Any: ...


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

    Args:
        batch_size: images per update, over all processes, repeats included.
        aspect_ratios: (num_images,) width / height, or None for no grouping; not with `repeats`.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        seed: int,
        aspect_ratios: NDArray[np.floating] | None = None,
        repeats: int = 1,
    ) -> None:
        assert num_images > 0 and batch_size > 0 and repeats > 0
        assert repeats == 1 or aspect_ratios is None
        self.num_images = num_images
        self.repeats = repeats
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = -(-num_images // batch_size)
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
        indices = self._cached[1][place].tolist()
        first = epoch * self.repeats
        keys = [(first + r, index) for r in range(self.repeats) for index in indices]
        return keys[: self.batch_size]

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        """(steps_per_epoch, batch_size / repeats, rounded up) image indices."""
        rng = np.random.default_rng(
            # (seed, epoch) alone would be the sequence of sample (seed, epoch, 0).
            np.random.SeedSequence((self.seed, epoch), spawn_key=(0,))
        )
        order = rng.permutation(self.num_images)
        size = -(-self.batch_size // self.repeats)
        if self.repeats > 1:
            return np.resize(order, (self.steps_per_epoch, size))
        full: list[NDArray[np.int64]] = []
        rests: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for group in (order[~self._is_portrait[order]], order[self._is_portrait[order]]):
            whole = len(group) // size * size
            full.extend(group[:whole].reshape(-1, size))
            if len(group) > whole:
                rests.append((group[whole:], group))
        # Landscape and portrait batches in random order, the incomplete ones last.
        mixed = rng.permutation(len(full)) if self._is_portrait.any() else range(len(full))
        batches = [full[i] for i in mixed]
        if len(rests) == 2 and len(rests[0][0]) + len(rests[1][0]) <= size:
            larger = max(rests, key=lambda rest: len(rest[0]))
            rests = [(np.concatenate([rests[0][0], rests[1][0]]), larger[1])]
        for rest, group in rests:
            batches.append(np.concatenate([rest, np.resize(group, size - len(rest))]))
        return np.stack(batches)


class _Batches(Dataset[Any]):
    """Makes whole batches in the workers: `DataLoader` asks for all keys of a batch at once."""

    def __init__(self, dataset: Samples, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset, self.collate = dataset, collate
        self.made = multiprocessing.RawValue("L", 0)
        """Samples so far, by all workers."""

    def count(self) -> int:
        """As `made`, in the training process."""
        return int(self.made.value)

    def __getitems__(self, keys: list[Key]) -> Any:
        # Raised in a worker, an error would arrive as a traceback around the message.
        try:
            return self.collate([self._sample(key) for key in keys])
        except UserError as error:
            return DataError(*error.args)

    def __getitem__(self, key: Key) -> Any:
        return self.__getitems__([key])

    def _sample(self, key: Key) -> Any:
        self.made.value += 1
        return self.dataset[key]


def _as_is(batch: Any) -> Any:
    return batch


def _load(
    dataset: Samples,
    keys: Iterable[list[Key]],
    collate: Callable[[list[Any]], Any],
    workers: int,
    pin_memory: bool,
) -> Iterator[Any]:
    """Batches of the keys, in their order for any number of workers.

    Raises:
        DataError: a file or annotation turns out to be bad.
        LoaderError: see `resdet.data.workers.watched`.
    """
    source = _Batches(dataset, collate)
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
    dataset: Samples,
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
) -> Iterator[list[Any]]:
    """This process's slice of each step from start_step to before end_step, in `accumulate` parts.

    The same tensors for any number of workers, and for any start. A batch is what `collate` makes
    of the samples: a `Batch` by default.

    Raises:
        DataError: the batch can't be split so, or a file or annotation turns out to be bad.
    """
    if plan.batch_size % (world_size * accumulate):
        raise DataError(
            f"train.batch_size {plan.batch_size} can't be split over {world_size} process(es) × "
            f"train.accumulate {accumulate}; give a multiple of {world_size * accumulate}"
        )
    size = plan.batch_size // (world_size * accumulate)
    keys = _step_keys(plan, range(start_step, end_step), rank, accumulate, size)
    batches = _load(dataset, keys, collate, workers, pin_memory)
    return (list(parts) for parts in zip(*[batches] * accumulate, strict=True))


def eval_loader(
    dataset: Samples,
    *,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
    collate: Callable[[list[Any]], Any] = collate,
) -> Iterator[Any]:
    """Every image once over all processes: this one takes each world_size-th, from `rank` on.

    Raises:
        DataError: a file or annotation turns out to be bad.
    """
    own = range(rank, len(dataset), world_size)
    keys = [
        [(0, index) for index in own[first : first + batch_size]]
        for first in range(0, len(own), batch_size)
    ]
    return _load(dataset, keys, collate, workers, pin_memory)
