"""The model of a server, from loading to the last answer."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from resdet.errors import UserError
from resdet.files.images import EncodedImage
from resdet.inference.predicting import DETECTION_THRESH
from resdet.memory import resident_memory
from resdet.models.predict import Predictor
from resdet.models.region_classifier import AnyLocalizer
from resdet.ops.tiles import Tiling
from resdet.serving.answers import Masks, as_json, as_png
from resdet.serving.batching import UPLOAD, Batcher, Job
from resdet.serving.metrics import COUNTS, SECONDS, Counter, Histogram, gauge
from resdet.serving.settings import Settings
from resdet.structures import Classification, Detections, readable_names

FIRST = (480, 640)
"""(height, width) of the black image that is predicted before the server is ready: it loads what is
loaded with the first use, and shows what the model answers."""


@dataclass
class Asked:
    """What a request asks for."""

    data: bytes
    """Of an image file."""
    score_thresh: float | None = None
    masks: Masks = "none"
    draw: bool = False


@dataclass
class Answered:
    """The body of an answer, and where its time went."""

    body: dict[str, Any] | bytes
    """Values for JSON, or a PNG file."""
    timing: dict[str, float]
    """Seconds by step: decode, queue, model, encode."""


class NotReady(UserError):
    """The model is not loaded yet."""


class Service:
    """One model for all requests: threads decode and draw, one thread runs the network."""

    def __init__(self, settings: Settings, name: str) -> None:
        """`name` is how the page and messages call the model."""
        self.settings, self.name = settings, name
        self.model: Predictor[Any] | None = None
        self.tiling: Tiling | None = None
        self.answers_with: type[Detections | Classification] = Detections
        self.has_masks = False
        self.class_names: list[str] = []
        self.class_words: list[str] = []
        """The names for people."""
        self.failure: BaseException | None = None
        """Why the model could not be loaded."""
        self._batcher: Batcher | None = None
        workers = max(2, min(4, os.cpu_count() or 1))
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="resdet-images")
        self.in_progress = 0
        self.requests = Counter(
            "resdet_requests_total", "Requests by route and status.", ("route", "status")
        )
        self.request_seconds = Histogram(
            "resdet_predict_seconds", "Seconds from the head of a request to its answer.", SECONDS
        )
        self.model_seconds = Histogram(
            "resdet_model_seconds", "Seconds of the network per batch.", SECONDS
        )
        self.batch_size = Histogram("resdet_batch_size", "Images per batch.", COUNTS)

    # Life

    def load(self, load: Callable[[], Predictor[Any]]) -> bool:
        """Load the model and predict a black image; whether that worked, else `failure` is why."""
        try:
            model, settings = load(), self.settings
            tiling = model.tiling(settings.tile, settings.overlap, ("--tile", "--overlap"))
            first = model.predict(
                np.zeros((*_first_size(tiling, settings.max_pixels), 3), np.uint8),
                tile=settings.tile,
                overlap=settings.overlap,
            )
            assert isinstance(first, Detections | Classification)
            self.answers_with = type(first)
            self.has_masks = isinstance(first, Detections) and first.has_masks
            self.class_names = list(first.class_names)
            self.class_words = readable_names(self.class_names)
            self._batcher = Batcher(
                model,
                max_batch=settings.max_batch,
                max_wait_s=settings.max_wait_ms / 1e3,
                tiling=tiling,
                on_batch=self._count_batch,
            )
            self.model, self.tiling = model, tiling
        except BaseException as error:
            self.failure = error
        return self.is_ready

    def close(self, *, drop: bool = False) -> None:
        """Compute what is queued, or with `drop` forget it, then end the threads."""
        if self._batcher is not None:
            self._batcher.close(drop=drop)
        self._pool.shutdown(cancel_futures=True)

    @property
    def is_ready(self) -> bool:
        return self.model is not None

    def ready_model(self) -> Predictor[Any]:
        """The model; NotReady while it is being loaded."""
        if self.model is None:
            raise NotReady("the model is being loaded; try again in a few seconds")
        return self.model

    # Numbers

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        self.requests.add(route, str(status))
        if route == "/predict" and status == 200:
            self.request_seconds.add(seconds)

    def _count_batch(self, jobs: Sequence[Job], seconds: float) -> None:
        self.batch_size.add(len(jobs))
        self.model_seconds.add(seconds)

    def metrics(self) -> Iterator[str]:
        """The lines of /metrics."""
        waiting = 0 if self._batcher is None else len(self._batcher)
        return chain(
            gauge("resdet_ready", "Whether the model is loaded.", self.is_ready),
            gauge(
                "resdet_requests_in_progress",
                "Images being read or computed, or waiting.",
                self.in_progress,
            ),
            gauge("resdet_queue_length", "Images that wait for the network.", waiting),
            *(
                each.lines()
                for each in (
                    self.requests,
                    self.request_seconds,
                    self.model_seconds,
                    self.batch_size,
                )
            ),
            gauge(
                "process_resident_memory_bytes", "Memory of the process.", resident_memory() or 0
            ),
        )

    def describe(self) -> dict[str, Any]:
        """What is served, for programs and the page."""
        model, settings = self.ready_model(), self.settings
        return {
            "name": self.name,
            "task": "detection" if self.answers_with is Detections else "classification",
            "class_names": self.class_names,
            "class_words": self.class_words,
            "has_masks": self.has_masks,
            "score_thresh": self.default_thresh(),
            "lowest_score": self.lowest_score,
            "device": str(model.device),
            "tile": self.tiling and {"size": self.tiling.size, "overlap": self.tiling.overlap},
            "max_upload_bytes": settings.max_upload,
            "max_pixels": settings.max_pixels,
            "timeout_s": settings.timeout_s,
        }

    def default_thresh(self) -> float | None:
        """The score threshold of requests that give none."""
        detects = self.answers_with is Detections and not isinstance(self.model, AnyLocalizer)
        thresh = self.settings.score_thresh
        if thresh is None and detects:
            thresh = DETECTION_THRESH
        return None if thresh is None else max(thresh, self.lowest_score)

    @property
    def lowest_score(self) -> float:
        """The lowest threshold that requests may give: exported models leave out what is below."""
        return float(getattr(self.model, "lowest_score", 0.0))

    # Answers

    async def answer(self, asked: Asked, job_made: Callable[[Job], None]) -> Answered:
        """Decode, predict and encode one image; `job_made` gets its place in the queue.

        Raises:
            DataError: the image cannot be read, or has more pixels than are allowed.
            UserError: it does not fit into memory.
        """
        model, loop = self.ready_model(), asyncio.get_running_loop()
        assert self._batcher is not None
        start = time.perf_counter()
        prepared, size = await loop.run_in_executor(self._pool, self._prepare, model, asked.data)
        decoded = time.perf_counter()
        thresh = self.default_thresh() if asked.score_thresh is None else asked.score_thresh
        job = Job(prepared, size, thresh)
        job_made(job)
        self._batcher.submit(job)
        try:
            prediction = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.is_given_up = True
            raise
        predicted = time.perf_counter()
        body = await loop.run_in_executor(self._pool, self._encode, asked, prediction, size)
        timing = {
            "decode": decoded - start,
            "queue": job.started_at - job.queued_at,
            "model": job.ended_at - job.started_at,
            "encode": time.perf_counter() - predicted,
        }
        return Answered(body, timing)

    def _opened(self, data: bytes) -> EncodedImage:
        return EncodedImage(data, UPLOAD, self.settings.max_pixels)

    def _prepare(self, model: Predictor[Any], data: bytes) -> tuple[Any, tuple[int, int]]:
        """What a job has of an image, and its (height, width)."""
        image = self._opened(data)
        if self.tiling is not None:
            return image, image.size
        return model.prepare(image.pixels()), image.size

    def _encode(
        self, asked: Asked, prediction: Detections | Classification, size: tuple[int, int]
    ) -> dict[str, Any] | bytes:
        if asked.draw:
            # decoded again: a queue of decoded images would take gigabytes
            return as_png(self._opened(asked.data).pixels(), prediction)
        answer = as_json(prediction, size, asked.masks)
        assert self.model is not None
        if self.tiling is None and (problem := self.model.size_problem(size)) is not None:
            answer["warning"] = problem
        return answer


def _first_size(tiling: Tiling | None, max_pixels: int) -> tuple[int, int]:
    """(height, width) of the black image: a whole tile, if an image may have one."""
    if tiling is None:
        return FIRST
    side = min(tiling.size, math.isqrt(max_pixels))
    return side, side
