"""The processes of a run watch each other: where one ends, all end, and one of them says why."""

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from typing import NoReturn

from resdet.errors import Reported, UserError

GRACE_S = 10
"""Seconds that a process has to end by itself once another has; a GPU waits for lost ones in
vain."""

NEWS_S = 3
"""Seconds in which an error of the exchange is explained by the end of another process."""

CONNECT_S = 60

DONE = "\0done"
"""The last word of a process that ends as all do."""

SILENT = (
    "ended without a message, most likely killed because memory ran out; lower data.workers or "
    "train.batch_size, and resume with --resume"
)


class PeerError(UserError):
    """Another process of the run has ended."""


class Peers:
    """A connection between the main process and each other one, over which the last words go.

    The operating system closes it when a process dies, however it dies. Collectives notice only
    when they meet the dead one, and NCCL's not even then.
    """

    def __init__(self, rank: int, connections: dict[int, socket.socket]) -> None:
        self.rank, self._connections = rank, connections
        self._lock = threading.Lock()
        self._is_leaving = False
        self._news = threading.Event()
        self.lost: tuple[int, str] | None = None
        """Rank and last words of the first process that has ended."""
        # loader workers would keep the connections of a process that was killed
        os.register_at_fork(after_in_child=self._close)
        for other, connection in connections.items():
            name = f"process {other}"
            listener = threading.Thread(target=self._listen, args=(other, connection), name=name)
            listener.daemon = True
            listener.start()

    def _listen(self, other: int, connection: socket.socket) -> None:
        """Wait for the end of another process, and see to it that this one ends as well."""
        words = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(4096):
                words += part
        text = words.decode(errors="replace")
        with self._lock:
            if self._is_leaving or self.lost is not None or text == DONE:
                return
            self.lost = (other, text)
        if self.rank == 0:
            self._send(f"process {other} has ended")
        self._news.set()
        time.sleep(GRACE_S)
        if not self._is_leaving:
            leave(self.end(None))

    def end(self, error: BaseException | None) -> BaseException:
        """The error with which this process ends, after one of its own or of the exchange.

        Of all processes one reports: the main one what it or another met, and process 1 that the
        main one is gone. `Reported` in the others.
        """
        if error is not None and not isinstance(error, UserError):
            self._news.wait(NEWS_S)
        with self._lock:
            self._is_leaving = True
        is_own = self.rank == 0 and isinstance(error, UserError)
        if self.lost is None or is_own:
            assert error is not None, "nobody else has ended"
            lines = str(error).splitlines() or [""]
            is_named = isinstance(error, UserError)
            self._send(lines[0] if is_named else f"{type(error).__name__}: {lines[0]}")
            is_told = self.rank > 0 and is_named
            return Reported(*error.args) if is_told else error
        other, text = self.lost
        if self.rank == 0 or (self.rank == 1 and not text):
            return PeerError(f"process {other}: {text}" if text else f"process {other} {SILENT}")
        return Reported(f"process {other} has ended; see the message of process 0")

    def part(self) -> None:
        """End as all do."""
        with self._lock:
            self._is_leaving = True
        self._send(DONE)

    def _send(self, text: str) -> None:
        """The last words of this process."""
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(text.encode(errors="replace"))
                connection.shutdown(socket.SHUT_WR)

    def _close(self) -> None:
        for connection in self._connections.values():
            connection.close()


def leave(error: BaseException) -> NoReturn:
    """End this process at once, whatever its other threads and its GPU are waiting for."""
    if not isinstance(error, Reported):
        print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(2)


class Meeting:
    """The address at which the main process waits for the others."""

    def __init__(self) -> None:
        has_both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if has_both else socket.AF_INET
        self._server = socket.create_server(("", 0), family=family, dualstack_ipv6=has_both)
        self._server.settimeout(CONNECT_S)
        self.port: int = self._server.getsockname()[1]
        self.secret = secrets.token_bytes(16)

    def connections(self, count: int) -> dict[int, socket.socket]:
        """Of the `count` other processes, by rank; strangers lack the secret."""
        found: dict[int, socket.socket] = {}
        with self._server:
            while len(found) < count:
                connection = self._server.accept()[0]
                connection.settimeout(CONNECT_S)
                greeting = _receive(connection, len(self.secret) + 4)
                if not secrets.compare_digest(greeting[:-4], self.secret):
                    connection.close()
                    continue
                connection.settimeout(None)
                found[int.from_bytes(greeting[-4:], "big")] = connection
        return found


def greet(host: str, port: int, secret: bytes, rank: int) -> socket.socket:
    """This process's connection to the main one."""
    try:
        connection = socket.create_connection((host, port), CONNECT_S)
    except OSError as error:
        raise UserError(
            f"{host}:{port}: process {rank} cannot connect to the main one: {error.strerror}; "
            "MASTER_ADDR must be the main process's machine, and its ports open to the others"
        ) from error
    connection.sendall(secret + rank.to_bytes(4, "big"))
    connection.settimeout(None)
    return connection


def _receive(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := connection.recv(count - len(data))):
        data += part
    return data
