"""Images and videos at http and https addresses: bounded in size and time, tried again, checked."""

from __future__ import annotations

import http.client
import logging
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from resdet.errors import UserError
from resdet.files.image_limits import MAX_PIXELS
from resdet.files.images import EncodedImage
from resdet.files.writing import WriteError
from resdet.version import __version__

T = TypeVar("T")
log = logging.getLogger("resdet")

SCHEMES = ("http", "https")
MOST_REDIRECTS = 5
TRIES = 3
WAIT_S = 1.0
"""Before the second try; twice as long before the third."""
TIMEOUT_S = 20.0
"""Without any byte."""
CHUNK = 1 << 18
"""Bytes read at a time."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""HTTP codes after which the same request may succeed."""
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PLAYLIST = re.compile(rb"\s*(#EXTM3U|ffconcat|<|v=0|\[playlist)")
_SAFE = "%/:=&?~#+!$,;'@()*[]"
"""What `quote` leaves as it is in an address."""


@dataclass(frozen=True)
class Limits:
    """How much one download may take, and what it may be."""

    most_bytes: int
    most_s: float
    wanted: str
    """image or video: content of another stated type is refused."""


IMAGE = Limits(256 << 20, 120, "image")
VIDEO = Limits(4 << 30, 3600, "video")


def is_address(text: str | Path) -> bool:
    """Whether an input is an address with a scheme (https://…) and not a path."""
    return isinstance(text, str) and _ADDRESS.match(text) is not None


def without_password(address: str) -> str:
    """The address as messages and results show it: without user name and password."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return re.sub(r"//[^/]*@", "//", address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def read_address(
    address: str, max_pixels: int = MAX_PIXELS, stop: Event | None = None
) -> NDArray[np.uint8]:
    """The image at an http or https address as (H, W, 3) uint8 RGB, as `read_image` reads files.

    Raises:
        UserError: it cannot be had, or is not an image, or `stop` was set meanwhile; it names the
            address without its password.
    """
    stop = stop or Event()
    data = _again(address, lambda: b"".join(_chunks(address, IMAGE, stop)), stop)
    return EncodedImage(data, without_password(address), max_pixels).pixels()


def download(address: str, file: IO[bytes], stop: Event) -> None:
    """Write the video at an http or https address into an empty file, until `stop` is set.

    Raises:
        UserError: it cannot be had, or is not a video, or `stop` was set.
        WriteError: the disk refuses.
    """

    def fill() -> None:
        file.seek(0)
        file.truncate()
        for chunk in _chunks(address, VIDEO, stop):
            try:
                file.write(chunk)
            except OSError as error:
                raise WriteError(file.name, error) from error
        file.flush()

    _again(address, fill, stop)
    file.seek(0)
    # FFmpeg would follow a playlist to other files and addresses
    if _PLAYLIST.match(file.read(1024)):
        raise UserError(
            f"{without_password(address)}: is a playlist, not a video; give the address of the "
            f"video, or live:{without_password(address)} for a stream"
        )


def content_type(address: str) -> str:
    """The type that the server states for an address, in lower case; empty where it states none.

    Raises:
        UserError: as `read_address`.
    """

    def ask() -> str:
        with _opened(address) as response:
            return _type_of(response)

    return _again(address, ask, Event())


def _again(address: str, work: Callable[[], T], stop: Event) -> T:
    """The work's result, tried up to `TRIES` times; UserError that names the address."""
    shown = without_password(address)
    for number in range(1, TRIES + 1):
        try:
            return work()
        except UserError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            code = getattr(error, "code", None)
            reason = _reason(error)
            if isinstance(error, ValueError) or (code is not None and code not in _AGAIN):
                raise UserError(f"{shown}: cannot be read ({reason}); check the address") from error
            if number == TRIES:
                raise UserError(
                    f"{shown}: cannot be read after {TRIES} tries ({reason}); try again later, or "
                    "download it and give the file"
                ) from error
            log.info("%s: %s; trying again", shown, reason)
        stop.wait(WAIT_S * 2 ** (number - 1))
    raise AssertionError("the last try returns or raises")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        if str(error.reason).startswith(_Redirects.inf_msg):
            return f"HTTP {error.code}, more than {MOST_REDIRECTS} redirects or a circle of them"
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, TimeoutError):
        return f"no answer for {TIMEOUT_S:.0f} s"
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason) or type(error).__name__


def _chunks(address: str, limits: Limits, stop: Event) -> Iterator[bytes]:
    """The content, checked for its type, size and completeness."""
    shown, start, size = without_password(address), time.monotonic(), 0
    remedy = "download it and give the file"
    with _opened(address) as response:
        _check_type(shown, _type_of(response), limits.wanted)
        stated = response.headers.get("Content-Length")
        length = int(stated) if stated and stated.isdecimal() else None
        most = f"more than the {limits.most_bytes >> 20:,} MB that an {limits.wanted} may have"
        if limits.wanted == "video":
            most = most.replace(" an ", " a ")
        if length is not None and length > limits.most_bytes:
            raise UserError(f"{shown}: has {length:,} bytes, {most}; {remedy}")
        while chunk := response.read1(CHUNK):
            size += len(chunk)
            if size > limits.most_bytes:
                raise UserError(f"{shown}: sends {most}; {remedy}")
            if stop.is_set():
                raise UserError(f"{shown}: was not read to its end, as the command was stopped")
            if time.monotonic() - start > limits.most_s:
                raise UserError(f"{shown}: takes more than {limits.most_s:.0f} s; {remedy}")
            yield chunk
        if length is not None and size < length:
            raise http.client.IncompleteRead(b"", length - size)


def _type_of(response: Any) -> str:
    return str(response.headers.get("Content-Type") or "").partition(";")[0].strip().lower()


def _check_type(shown: str, stated: str, wanted: str) -> None:
    """UserError for a type that is surely another one; servers state odd types of files."""
    kind, _, more = stated.partition("/")
    if stated.startswith("multipart/") or "mpegurl" in more:
        raise UserError(f"{shown}: is a live stream ({stated}); give live:{shown}")
    others = {"image", "video", "audio", "text"} - {wanted}
    if kind in others or more in ("json", "pdf", "xml", "xhtml+xml"):
        what = "a web page" if more == "html" else stated
        article = "an" if wanted == "image" else "a"
        raise UserError(
            f"{shown}: is {what}, not {article} {wanted}; give the address of the {wanted}"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, to http and https alone, and never from https to http."""

    max_redirections = MOST_REDIRECTS

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme == "http"):
            shown = without_password(req.full_url)
            raise UserError(
                f"{shown}: leads to {without_password(newurl)}, which is not followed; give an "
                "http or https address of the file itself"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(address: str) -> Iterator[Any]:
    """The server's answer; the password of an address is sent as HTTP's basic authentication."""
    parts = urlsplit(address)
    if parts.scheme.lower() not in SCHEMES or not parts.hostname:
        raise UserError(
            f"{without_password(address)}: is not an http or https address; give one of these, or "
            "a path"
        )
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    plain = quote(without_password(address), safe=_SAFE)
    if parts.username is not None:
        name, password = unquote(parts.username), unquote(parts.password or "")
        passwords.add_password(None, plain, name, password, True)
    # without the handlers of file: and ftp: addresses
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPBasicAuthHandler(passwords),
        _Redirects(),
    ):
        opener.add_handler(handler)
    request = urllib.request.Request(plain, headers={"User-Agent": f"resdet/{__version__}"})
    with opener.open(request, timeout=TIMEOUT_S) as response:
        yield response
