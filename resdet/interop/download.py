"""Published files, fetched once: resumed when broken off, checked, written beside and renamed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from io import BufferedRandom
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from resdet.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where two processes at once may both download
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("resdet")

TIMEOUT_S = 30
CHUNK = 1 << 20
# Tries in a row that brought the file no further, by a chunk at least.
MAX_TRIES = 3
# Hugging Face's answer, before it sends on to where the file lies, names the file's SHA-256.
LINKED = "X-Linked-ETag"
SHA256 = re.compile(r"[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where published files are kept: RESDET_CACHE, else ~/.cache/resdet (XDG_CACHE_HOME)."""
    given = os.environ.get("RESDET_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(given) if given else home / "resdet").expanduser()


def fetch(url: str, path: Path, *, sha256: str | None, spec: str) -> Path:
    """The file of `url` at `path`, downloaded where it is not there yet.

    `sha256` is the file's SHA-256 or the start of it, where it is known; else what the server
    tells is kept beside the file. It is checked after a download and each time the file is used.
    `spec` is for messages. What an interrupted download left in `path`.partial is gone on with.

    Raises UserError without network, naming the address and the place for the file, and for a
    file that is not what its SHA-256 says.
    """
    if path.is_file():
        _check_cached(path, sha256 or _kept_hash(path))
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _partial(path) as file:
            # another process may have had it in the meantime
            if not path.is_file():
                log.info("downloading %s to %s", url, path.parent)
                _download(url, path, file, sha256, spec)
    except urllib.error.HTTPError as error:
        problem = f"the server answers {error.code} {error.reason}"
        raise UserError(
            f"{spec}: cannot download {url}: {problem}. {_by_hand(url, path)}"
        ) from error
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{spec}: cannot download {path.name} ({reason}). {_by_hand(url, path)}"
        ) from error
    return path


def _by_hand(url: str, path: Path) -> str:
    return (
        f"Without network, fetch {url} elsewhere and put it into {path.parent} as {path.name}, or "
        "give the path of a file in place of the name, which needs no network, or start without "
        "weights (model.backbone.weights=null)"
    )


def _check_cached(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 starts with {digest[:8]}, and it "
            f"should be {sha256[:8]}; delete it and it is downloaded again"
        )


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _kept_hash(path: Path) -> str | None:
    """What the server said when `path` was downloaded."""
    try:
        found = _hash_file(path).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return found[0] if found and SHA256.fullmatch(found[0]) else None


@contextmanager
def _partial(path: Path) -> Iterator[BufferedRandom]:
    """`path`.partial, opened for appending, and this process's alone."""
    name = _partial_name(path)
    while True:
        with name.open("ab+") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                is_there = os.path.samestat(os.fstat(file.fileno()), name.stat())
            except FileNotFoundError:
                is_there = False
            # while this one waited, another process may have renamed or removed it
            if not is_there:
                continue
            try:
                yield file
            finally:
                file.flush()
                if name.is_file() and name.stat().st_size == 0:
                    name.unlink()
            return


def _partial_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


class _Origin:
    """What is known of the file that a partial one is a part of, kept beside it."""

    def __init__(self, path: Path, url: str) -> None:
        self._file = path.with_name(f"{path.name}.partial.json")
        self._url = url
        self.validator = ""
        """The server's ETag or date of the file; empty where a part can't be gone on with."""
        self.linked = ""
        """The SHA-256 that the server tells."""
        try:
            values = json.loads(self._file.read_text(encoding="utf-8"))
            if values["url"] == url:
                self.validator, self.linked = str(values["validator"]), str(values["linked"])
        except (OSError, ValueError, KeyError, TypeError):
            pass

    def update(self, headers: Any, linked: str) -> None:
        """Keep what the answer to a request for the whole file says."""
        etag = headers.get("ETag") or ""
        # a weak one says nothing of the bytes
        self.validator = etag if etag.startswith('"') else headers.get("Last-Modified") or ""
        self.linked = linked
        values = {"url": self._url, "validator": self.validator, "linked": self.linked}
        self._file.write_text(json.dumps(values), encoding="utf-8")

    def remove(self) -> None:
        self._file.unlink(missing_ok=True)


def _download(url: str, path: Path, file: BufferedRandom, sha256: str | None, spec: str) -> None:
    """Fetch into `file`, the locked partial one, check it and rename it to `path`."""
    origin = _Origin(path, url)
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, disable=not sys.stderr.isatty(), transient=True
    ) as bar:
        failures, furthest = 0, file.seek(0, os.SEEK_END)
        while True:
            try:
                if _fetch_rest(url, file, origin, bar):
                    break
                error: Exception = ConnectionError("the connection broke off")
            except (ConnectionError, TimeoutError, HTTPException) as caught:
                error = caught
            failures = 0 if file.tell() >= furthest + CHUNK else failures + 1
            furthest = max(furthest, file.tell())
            if failures == MAX_TRIES:
                raise error
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = sha256 or origin.linked
    partial = _partial_name(path)
    origin.remove()
    if not digest.startswith(expected):
        partial.unlink()
        raise UserError(
            f"{spec}: the download of {url} is damaged: its SHA-256 starts with {digest[:8]}, and "
            f"it should be {expected[:8]}; try again"
        )
    os.fsync(file.fileno())
    if sha256 is None and origin.linked:
        _hash_file(path).write_text(f"{digest}  {path.name}\n", encoding="ascii")
    partial.replace(path)


def _fetch_rest(url: str, file: BufferedRandom, origin: _Origin, bar: Progress) -> bool:
    """Append what is missing of `file`, or start it over; False where the connection broke off."""
    start = file.seek(0, os.SEEK_END)
    if start and not origin.validator:
        start = 0
    redirects = _Redirects()
    opener = urllib.request.build_opener(redirects)
    request = urllib.request.Request(url, headers={"User-Agent": "resdet"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", origin.validator)
    try:
        response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        # the part is as long as the file is now, or longer
        file.truncate(0)
        return _fetch_rest(url, file, origin, bar)
    with response:
        linked = redirects.linked or _plain_hash(response.headers)
        if start and not _goes_on(response, start, linked, origin):
            start = 0
            if response.status == 206:
                # a part of another file than before, and not its beginning
                file.truncate(0)
                return _fetch_rest(url, file, origin, bar)
        if not start:
            file.truncate(0)
            origin.update(response.headers, linked)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdecimal() else None
        task = bar.add_task("", total=total, completed=start)
        try:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.advance(task, len(chunk))
        finally:
            bar.remove_task(task)
            file.flush()
    return total is None or file.seek(0, os.SEEK_END) >= total


def _goes_on(response: Any, start: int, linked: str, origin: _Origin) -> bool:
    """Whether the answer is the rest from `start` of the file that was begun."""
    begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
    etag = response.headers.get("ETag")
    is_strong_etag = origin.validator.startswith('"')
    return (
        response.status == 206
        and begins is not None
        and int(begins[1]) == start
        and linked == origin.linked
        and (not is_strong_etag or etag in (None, origin.validator))
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows them, and keeps the SHA-256 that one of them tells."""

    def __init__(self) -> None:
        self.linked = ""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Any:
        self.linked = self.linked or _plain_hash(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _plain_hash(headers: Any) -> str:
    """The SHA-256 of Hugging Face's header, empty where there is none."""
    value = (headers.get(LINKED) or "").removeprefix("W/").strip('"').lower()
    return value if SHA256.fullmatch(value) else ""
