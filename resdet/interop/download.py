"""Published files, downloaded once: resumed after an interruption, checked, then renamed."""

import hashlib
import json
import logging
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from http.client import HTTPException, HTTPMessage
from io import BufferedRandom
from pathlib import Path
from typing import IO, Any

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from resdet.errors import UserError
from resdet.files.writing import write_json, write_text

log = logging.getLogger("resdet")

TIMEOUT_S = 30
CHUNK = 1 << 20
# Attempts in a row that add less than a chunk to the file.
MAX_TRIES = 3
# Hugging Face's redirect to the file's location carries the file's SHA-256.
LINKED = "X-Linked-ETag"
SHA256 = re.compile(r"[0-9a-f]{64}")
WEB_PAGE = "the server sends a web page instead of it; does a proxy or a login stand in between?"
PAGE = re.compile(rb"\s*<(!doctype\s+html|html|head|\?xml)", re.IGNORECASE)
"""How web pages begin, and no file of weights."""


def fetch(url: str, path: Path, *, sha256: str | None, spec: str) -> Path:
    """The file of `url` at `path`, downloaded if it is not there yet.

    `sha256` is the file's SHA-256 or its start, if it is known; else the one that the server
    reports is kept beside the file. It is checked after a download and each time the file is used.
    `spec` is for messages. `path`.partial, left by an interrupted download, is resumed.

    Raises UserError without network, with the address and the place for the file, for a file with
    another SHA-256, for a web page in its place, and where neither a length nor a SHA-256 shows
    that it is whole. Redirects lead from https to https alone.
    """
    if path.is_file():
        _check_cached(path, sha256 or _recorded_hash(path))
        return path
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            try:
                # another process may have downloaded it in the meantime
                if not path.is_file():
                    log.info("downloading %s to %s", url, path.parent)
                    _Download(url, path, sha256).run(spec)
            finally:
                # while it is held: FileLock does not take a lock on a file without a name
                with suppress(OSError):
                    lock.unlink()
    except urllib.error.HTTPError as error:
        problem = f"cannot download {url}: the server answers {error.code} {error.reason}"
        raise UserError(f"{spec}: {problem}. {_by_hand(url, path)}") from error
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        reason = getattr(error, "reason", None) or error
        problem = f"cannot download {path.name} ({reason})"
        raise UserError(f"{spec}: {problem}. {_by_hand(url, path)}") from error
    return path


def _by_hand(url: str, path: Path) -> str:
    return (
        f"Without network, fetch {url} elsewhere and put it into {path.parent} as {path.name}, or "
        "give the path of a file in place of the name, which needs no network. To train from "
        "scratch instead: model.weights=null model.backbone.weights=null model.backbone.norm=bn "
        "model.backbone.freeze_at=0"
    )


def _check_cached(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    digest = _digest(path)
    if not digest.startswith(sha256):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 starts with {digest[:8]}, and it "
            f"should be {sha256[:8]}; delete it and it is downloaded again"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded_hash(path: Path) -> str | None:
    """The SHA-256 that the server reported when `path` was downloaded."""
    try:
        words = _hash_file(path).read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return words[0] if words and SHA256.fullmatch(words[0]) else None


class _Download:
    """One file on its way: `path`.partial, and beside it what the server reported of it."""

    def __init__(self, url: str, path: Path, sha256: str | None) -> None:
        self.url, self.path, self.sha256 = url, path, sha256
        self.partial = path.with_name(f"{path.name}.partial")
        self.origin = path.with_name(f"{path.name}.partial.json")
        self.validator = ""
        """The server's ETag or date of the file; empty if a partial file can't be resumed."""
        self.linked = ""
        """The SHA-256 that the server reports."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads(self.origin.read_text(encoding="utf-8"))
            if values["url"] == url:
                self.validator, self.linked = str(values["validator"]), str(values["linked"])

    def run(self, spec: str) -> None:
        """Download, check and rename; UserError for another SHA-256, OSError for the rest."""
        try:
            with self.partial.open("ab+") as file:
                self._fetch(file)
                file.flush()
                os.fsync(file.fileno())
        finally:
            if self.partial.stat().st_size == 0:
                self.partial.unlink()
        digest, expected = _digest(self.partial), self.sha256 or self.linked
        self.origin.unlink(missing_ok=True)
        if not digest.startswith(expected):
            self.partial.unlink()
            raise UserError(
                f"{spec}: the download of {self.url} is damaged: its SHA-256 starts with "
                f"{digest[:8]}, and it should be {expected[:8]}; try again"
            )
        if self.sha256 is None and self.linked:
            write_text(_hash_file(self.path), f"{digest}  {self.path.name}\n")
        self.partial.replace(self.path)

    def _fetch(self, file: BufferedRandom) -> None:
        """Request the rest of the file until it is complete."""
        columns = (TextColumn(self.path.name), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console, hidden = Console(stderr=True), not sys.stderr.isatty()
        with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
            failures, furthest = 0, file.seek(0, os.SEEK_END)
            while True:
                try:
                    if self._fetch_rest(file, bar):
                        return
                    error: Exception = ConnectionError("the connection broke off")
                except (ConnectionError, TimeoutError, HTTPException) as caught:
                    error = caught
                failures = 0 if file.tell() >= furthest + CHUNK else failures + 1
                furthest = max(furthest, file.tell())
                if failures == MAX_TRIES:
                    raise error

    def _fetch_rest(self, file: BufferedRandom, bar: Progress) -> bool:
        """Append the rest of `file`, or start over; False if the connection broke off."""
        start = file.seek(0, os.SEEK_END) if self.validator else 0
        redirects = _Redirects()
        request = urllib.request.Request(self.url, headers={"User-Agent": "resdet"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", self.validator)
        try:
            opener = urllib.request.build_opener(redirects)
            response = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:
                raise
            # the partial file is as long as the file is now, or longer
            file.truncate(0)
            return self._fetch_rest(file, bar)
        with response:
            linked = redirects.linked or _plain_hash(response.headers)
            if start and not self._continues(response, start, linked):
                start = 0
                if response.status == 206:
                    # the rest of another file, without its beginning
                    file.truncate(0)
                    return self._fetch_rest(file, bar)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdecimal() else None
            self._check_answer(
                response.headers, is_checkable=total is not None or bool(self.sha256 or linked)
            )
            if not start:
                file.truncate(0)
                self._record(response.headers, linked)
            task = bar.add_task("", total=total, completed=start)
            try:
                while chunk := response.read(CHUNK):
                    if file.tell() == 0 and PAGE.match(chunk):
                        raise urllib.error.URLError(WEB_PAGE)
                    file.write(chunk)
                    bar.advance(task, len(chunk))
            finally:
                bar.remove_task(task)
                file.flush()
        return total is None or file.seek(0, os.SEEK_END) >= total

    def _check_answer(self, headers: Any, *, is_checkable: bool) -> None:
        """URLError for an answer that is not the file, or that nothing could be compared with."""
        if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise urllib.error.URLError(WEB_PAGE)
        coding = headers.get("Content-Encoding") or "identity"
        if coding != "identity":
            raise urllib.error.URLError(f"the server sends it encoded as {coding}")
        if not is_checkable:
            raise urllib.error.URLError(
                "the server reports neither its length nor its SHA-256, so that nothing would show "
                "whether it is whole"
            )

    def _record(self, headers: Any, linked: str) -> None:
        """Keep what the answer to a request for the whole file reports."""
        etag = headers.get("ETag") or ""
        # a weak ETag does not identify the bytes
        self.validator = etag if etag.startswith('"') else headers.get("Last-Modified") or ""
        self.linked = linked
        values = {"url": self.url, "validator": self.validator, "linked": linked}
        write_json(self.origin, values)

    def _continues(self, response: Any, start: int, linked: str) -> bool:
        """Whether the answer is the rest, from `start`, of the file that was begun."""
        begins = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or "")
        etag = response.headers.get("ETag")
        is_strong_etag = self.validator.startswith('"')
        return (
            response.status == 206
            and begins is not None
            and int(begins[1]) == start
            and linked == self.linked
            and (not is_strong_etag or etag in (None, self.validator))
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, from https to https alone, and keeps the SHA-256 that one of them
    reports."""

    max_redirections = 5

    def __init__(self) -> None:
        self.linked = ""

    def redirect_request(
        self, req: Any, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Any:
        schemes = [urllib.parse.urlsplit(url).scheme.lower() for url in (req.full_url, newurl)]
        # a file without a known hash is no safer than the least safe way that it came
        if schemes[1] != "https" and schemes != ["http", "http"]:
            raise urllib.error.URLError(f"the server refers to {newurl}, which is not https")
        self.linked = self.linked or _plain_hash(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _plain_hash(headers: Any) -> str:
    """The SHA-256 in Hugging Face's header; empty if there is none."""
    value = (headers.get(LINKED) or "").removeprefix("W/").strip('"').lower()
    return value if SHA256.fullmatch(value) else ""
