"""A server in a thread of the test, with real sockets."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from resdet.errors import UserError
from resdet.models.predict import Predictor
from resdet.serving.server import address_of, bind, serve
from resdet.serving.service import Service
from resdet.serving.settings import Settings


@dataclass
class Running:
    """A server that answers, and a client of it."""

    service: Service
    client: httpx.Client
    url: str
    stop: Callable[[], None]
    """Ask it to end, as a signal does, without waiting."""
    thread: threading.Thread

    def post(self, data: bytes, **options: Any) -> httpx.Response:
        """An image as the body."""
        headers = {"content-type": "image/png", **options.pop("headers", {})}
        return self.client.post("/predict", content=data, headers=headers, **options)


@contextmanager
def running(
    model: Predictor[Any], settings: Settings | None = None, *, wait: bool = True, **options: Any
) -> Iterator[Running]:
    """A server of `model`; with `wait`, once it is ready."""
    service = Service(settings or Settings(), "tiny")
    is_over = threading.Event()
    load = options.pop("load", lambda: model)
    with bind("127.0.0.1", 0) as listening:
        url = address_of(listening)

        def work() -> None:
            with suppress(UserError):  # of a model that does not load
                serve(service, load, listening, "127.0.0.1", until=is_over.is_set)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=60) as client:
                while wait and not service.is_ready:
                    assert service.failure is None
                    is_over.wait(0.02)
                yield Running(service, client, url, is_over.set, thread)
        finally:
            is_over.set()
            thread.join()
