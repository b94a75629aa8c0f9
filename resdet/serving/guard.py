"""What every request passes first and every answer last: whose page asks, headers, log, numbers.

A server on localhost can be reached by every page that the browser of its machine shows. Such a
page may send images without being able to read the answers, or, with a DNS name of its own that
points to 127.0.0.1 (DNS rebinding), read them as well. So names in addresses are checked, and
other sites are refused unless they are allowed.
"""

import ipaddress
import json
import logging
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from resdet.serving.settings import Settings

log = logging.getLogger("resdet")

Message = dict[str, Any]
QUIET = ("/health", "/metrics")
"""Routes that are not logged unless they fail: they are asked every few seconds."""
SAFE = ("GET", "HEAD", "OPTIONS")
"""Methods that compute nothing."""
GONE = 499
"""Counted as the status where the client went away before the answer, as nginx does."""
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


class Guard:
    """The server's application, as ASGI calls it, around another one.

    Args:
        routes: the paths that are named in the log and counted by name; others are "other".
        on_answer: gets the route, the status and the seconds of each request.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        settings: Settings,
        *,
        host: str,
        routes: tuple[str, ...],
        on_answer: Callable[[str, int, float], None],
    ) -> None:
        """`host` is the name or address that the server is bound to."""
        self.app, self.routes, self.on_answer = app, routes, on_answer
        own = (host, socket.gethostname(), *settings.allow_hosts)
        self.hosts = {name.lower().rstrip(".") for name in own if name}
        self.origins = {origin.lower().rstrip("/") for origin in settings.allow_origins}

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        sent = {"status": 0}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in _pairs(scope)}
        shared = self._shared_with(headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent["status"] = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                more = [
                    (name.encode(), value.encode())
                    for name, value in {**HEADERS, **shared}.items()
                    if name.encode() not in present
                ]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        try:
            problem = self._problem(scope["method"], headers)
            if problem is not None:
                await respond(answer, 403, problem)
            elif shared and scope["method"] == "OPTIONS":
                await respond(answer, 204, None)
            else:
                await self.app(scope, receive, answer)
        except Exception as error:
            # the application has answered with 500 before it raises
            traceback.print_exception(error, file=sys.stderr)
        finally:
            self._note(scope, sent["status"], time.perf_counter() - start)

    def _note(self, scope: Message, status: int, seconds: float) -> None:
        """One line per request, without anything that the client chose."""
        status = status or GONE
        route = scope["path"] if scope["path"] in self.routes else "other"
        self.on_answer(route, status, seconds)
        if route not in QUIET or status not in (200, 503):
            log.info("%s %s: %d in %.0f ms", scope["method"][:8], route, status, 1e3 * seconds)

    def _problem(self, method: str, headers: Mapping[str, str]) -> str | None:
        """Why a request is refused because of where it comes from; None if it is not."""
        host = headers.get("host", "")
        if not self._is_own(host):
            return (
                f"{_short(host)}: is not a name of this server; use its IP address, or start it "
                "with --allow-host NAME"
            )
        if method in SAFE:
            return None
        origin = headers.get("origin", "").lower()
        if not origin and headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            return None
        if self._is_allowed(origin) or (origin and _netloc(origin) == host.lower()):
            return None
        return (
            f"{_short(origin) or 'a page of another site'}: pages of other sites may not use this "
            "server; start it with --allow-origin ORIGIN"
        )

    def _is_own(self, host: str) -> bool:
        """Whether the header Host names this server: no page can choose an IP address or localhost
        as its own name."""
        if "*" in self.hosts or not host:  # without it, it is no browser
            return True
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if name in self.hosts or name == "localhost" or name.endswith(".localhost"):
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_allowed(self, origin: str) -> bool:
        return bool(origin) and ("*" in self.origins or origin in self.origins)

    def _shared_with(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers by which a page of an allowed site may read the answer (CORS)."""
        origin = headers.get("origin", "")
        if not self._is_allowed(origin.lower()):
            return {}
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "content-type",
            "access-control-max-age": "600",
            "vary": "Origin",
        }


def _pairs(scope: Message) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    return pairs


def _netloc(origin: str) -> str:
    return origin.partition("://")[2]


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


async def respond(send: Callable[[Message], Any], status: int, problem: str | None) -> None:
    """An error as JSON, or an empty answer, through ASGI's `send`."""
    body = b"" if problem is None else json.dumps({"error": problem}).encode()
    headers = [(b"content-length", str(len(body)).encode())] if status != 204 else []
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
