"""The server process: its socket, its connections, and its end."""

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from resdet.engine.signals import StopRequest, stop_request
from resdet.errors import UserError
from resdet.models.predict import Predictor
from resdet.serving.api import ROUTES, make_api
from resdet.serving.guard import Guard
from resdet.serving.service import Service

log = logging.getLogger("resdet")

HEAD_S = 10.0
"""Seconds in which the line and headers of a request must be there."""
HEAD_BYTES = 1 << 14
MOST_CONNECTIONS = 512
IDLE_S = 5
"""Seconds that a connection is kept for further requests."""


class Connection(H11Protocol):
    """Closes itself where a request's head takes too long: connections that send a byte now and
    then would fill the server."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_head()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forget_head()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.close)

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None


class Server(uvicorn.Server):
    """Ends with exit code 0 on the signals that ask a program to end, after the requests in
    progress; and when `is_over` says so."""

    def __init__(self, config: uvicorn.Config, is_over: Callable[[], bool]) -> None:
        super().__init__(config)
        self._is_over = is_over
        self._stop = StopRequest()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with stop_request() as self._stop:
            yield

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or bool(self._stop) or self._is_over()


def serve(
    service: Service,
    load: Callable[[], Predictor[Any]],
    listening: socket.socket,
    host: str,
    *,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Answer requests at a bound socket until a signal comes or `until` is true, and finish those
    in progress then. The model of `load` is loaded meanwhile; raises what `load` raises.
    """
    guard = Guard(
        make_api(service), service.settings, host=host, routes=ROUTES, on_answer=service.count
    )
    config = uvicorn.Config(
        guard,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=IDLE_S,
        # requests have ends of their own
        timeout_graceful_shutdown=round(service.settings.timeout_s) + 5,
    )
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    where = address_of(listening)

    def work() -> None:
        if service.load(load):
            log.info("%s: ready at %s (Ctrl-C ends it)", service.name, where)

    loading = threading.Thread(target=work, name="resdet-load", daemon=True)
    loading.start()
    has_ended = False
    try:
        Server(config, lambda: service.failure is not None or until()).run([listening])
        loading.join()
        has_ended = True
    finally:
        service.close(drop=not has_ended)
    if service.failure is not None:
        raise service.failure


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at a host's address; UserError if it cannot."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host}: is not an address of this machine; give 127.0.0.1, or 0.0.0.0 for all "
            "of them"
        ) from error
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # who connects from here on waits for the first answer
        listening.listen()
    except OSError as error:
        listening.close()
        raise UserError(
            f"--host {host} --port {port}: {error.strerror}; give another --port, or 0 for a free "
            "one"
        ) from error
    return listening


def address_of(listening: socket.socket) -> str:
    """The address of a bound socket for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
