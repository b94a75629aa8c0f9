"""Images of several requests through the network together, in one thread."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resdet.errors import UserError
from resdet.files.windows import WholeImage
from resdet.inference.batches import predict_batch, predict_windows
from resdet.memory import give_memory_back
from resdet.models.predict import Predictor, inference_mode
from resdet.ops.tiles import Tiling
from resdet.structures import Classification, Detections

Prediction = Detections | Classification
BATCHES = 50
"""After so many, freed memory goes back to the system, which takes some milliseconds."""
UPLOAD = "the image"
"""What messages call an image that came without a name."""


@dataclass(eq=False)
class Job:
    """One image on its way through the network."""

    prepared: Any
    """What the model's `prepare` gives; for tiles the `EncodedImage`, which is decoded when the
    network comes to it: a queue of large images would fill the memory."""
    size: tuple[int, int]
    """(height, width) of the original in pixels."""
    score_thresh: float | None
    future: "Future[Prediction]" = field(default_factory=Future)
    """Its prediction, or UserError if it does not fit into memory. A job whose future is cancelled
    before the network starts with it is never computed."""
    queued_at: float = field(default_factory=time.perf_counter)
    """Seconds of `time.perf_counter`; those of the other two as well."""
    started_at: float = 0.0
    ended_at: float = 0.0
    is_given_up: bool = False
    """Whether nobody waits for it any more: no further tile is computed."""

    @property
    def key(self) -> tuple[float | None, bool]:
        """Jobs of the same key may share a batch: they have the threshold in common, and upright
        images would pad landscape ones to squares."""
        return self.score_thresh, self.size[0] > self.size[1]


class _TiledJob:
    """The image of a job, decoded, to read tiles of (`resdet.files.windows.Windows`)."""

    def __init__(self, job: Job) -> None:
        self.size = job.size
        self._job, self._image = job, WholeImage(job.prepared.pixels())

    def read(self, window: Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        if self._job.is_given_up:
            raise UserError(f"{UPLOAD}: nobody waits for it any more")
        return self._image.read(window)


class Batcher:
    """Collects jobs and computes them in a thread of its own, the oldest first. With `tiling` an
    image is predicted alone, in tiles."""

    def __init__(
        self,
        model: Predictor[Any],
        *,
        max_batch: int,
        max_wait_s: float,
        tiling: Tiling | None = None,
        on_batch: Callable[[Sequence[Job], float], None] = lambda jobs, seconds: None,
    ) -> None:
        """An image waits up to `max_wait_s` for others with which it fills a batch of `max_batch`
        images; tiles fill batches by themselves. `on_batch` gets the jobs that were computed
        together, and the seconds that it took."""
        self.model, self.tiling, self.on_batch = model, tiling, on_batch
        self.max_batch, self.max_wait_s = max_batch, max_wait_s
        self._together = max_batch if tiling is None else 1
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="resdet-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Queue a job; RuntimeError after `close`."""
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the batcher is closed")
            self._jobs.append(job)
            self._changed.notify()

    def close(self, *, drop: bool = False) -> None:
        """Compute what is queued, or with `drop` cancel it, then end the thread."""
        with self._changed:
            self._is_closed = True
            while drop and self._jobs:
                self._jobs.popleft().future.cancel()
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        with inference_mode(self.model):
            for number in count(1):
                batch = self._next_batch()
                if not batch:
                    return
                self._compute(batch)
                if number % BATCHES == 0:
                    give_memory_back()

    def _next_batch(self) -> list[Job]:
        """Jobs that nobody has cancelled, marked as running; empty at the end."""
        while True:
            with self._changed:
                while not self._jobs:
                    if self._is_closed:
                        return []
                    self._changed.wait()
                first = self._jobs[0]
                due = first.queued_at + self.max_wait_s
                while (
                    sum(job.key == first.key for job in self._jobs) < self._together
                    and not self._is_closed
                    and (left := due - time.perf_counter()) > 0
                ):
                    self._changed.wait(left)
                chosen = [job for job in self._jobs if job.key == first.key][: self._together]
                for job in chosen:
                    self._jobs.remove(job)
            if batch := [job for job in chosen if job.future.set_running_or_notify_cancel()]:
                return batch

    def _compute(self, batch: Sequence[Job]) -> None:
        start = time.perf_counter()
        for job in batch:
            job.started_at = start
        try:
            predictions = self._predict(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            predictions = []
        if not predictions:
            # one image that the model fails on must not take the others with it
            for job in batch:
                self._compute([job])
            return
        end = time.perf_counter()
        self.on_batch(batch, end - start)
        for job, prediction in zip(batch, predictions, strict=True):
            job.ended_at = end
            if isinstance(prediction, UserError):
                job.future.set_exception(prediction)
            else:
                job.future.set_result(prediction)

    def _predict(self, batch: Sequence[Job]) -> Sequence[Prediction | UserError]:
        thresh = batch[0].score_thresh
        if self.tiling is not None:
            image = _TiledJob(batch[0])
            tiles = self.max_batch
            return [predict_windows(self.model, image, self.tiling, UPLOAD, thresh, tiles)]
        return predict_batch(
            self.model,
            [job.prepared for job in batch],
            [job.size for job in batch],
            [UPLOAD] * len(batch),
            thresh,
        )
