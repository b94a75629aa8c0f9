"""Downloads from a server on this machine: resumed, checked, and with one clear word each."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import io
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resdet.errors import UserError
from resdet.interop import download
from resdet.interop.download import fetch

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]


class Server(http.server.ThreadingHTTPServer):
    """What it serves, how, and what it was asked."""

    content = CONTENT
    etag = '"one"'
    ranges = True
    heeds_if_range = True
    cuts: list[int]
    """Bytes of the next bodies after which the connection breaks; all of the body when empty."""
    linked = ""
    headers: dict[str, str]
    """Further ones; an empty Content-Length leaves it out."""
    location = "/file"
    asked: list[Any]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        if self.path.startswith("/resolve"):
            self.send_response(302)
            if server.linked:
                self.send_header("X-Linked-ETag", f'"{server.linked}"')
            self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        server.asked.append((self.headers["Range"], self.headers["If-Range"]))
        if self.path != "/file":
            self.send_error(404)
            return
        start, body = 0, server.content
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        is_same = self.headers["If-Range"] == server.etag or not server.heeds_if_range
        if asked and server.ranges and is_same:
            start = int(asked[1])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        headers = {"Content-Length": str(len(body))} | server.headers
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = Server(("127.0.0.1", 0), Handler)
    served.cuts, served.asked, served.headers = [], [], {}
    threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


def url(server: Server, path: str = "file") -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(server: Server, path: Path, at: int) -> None:
    """Leave `path`.partial behind, of `at` bytes."""
    more = 0 if server.etag.startswith('"') else at
    server.cuts = [at] + [more] * (download.MAX_TRIES - 1)
    with pytest.raises(UserError, match="broke off"):
        fetch(url(server), path, sha256=None, spec="x")
    assert (path.parent / f"{path.name}.partial").stat().st_size == at
    server.asked.clear()


@pytest.mark.parametrize("sha256", [None, SHA256, SHA256[:8]])
def test_once_and_then_from_the_cache(server: Server, tmp_path: Path, sha256: str | None) -> None:
    path = tmp_path / "deep" / "folder" / "w.bin"
    for _ in range(2):
        assert fetch(url(server), path, sha256=sha256, spec="x") == path
        assert path.read_bytes() == CONTENT
    assert (names(path.parent), server.asked) == (["w.bin"], [(None, None)])


def test_a_connection_that_breaks_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cuts = [300_000, 200_000]
    fetch(url(server), tmp_path / "w.bin", sha256=SHA256, spec="x")
    assert server.asked == [
        (None, None),
        ("bytes=300000-", '"one"'),
        ("bytes=500000-", '"one"'),
    ]
    assert names(tmp_path) == ["w.bin"]


def test_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    break_off(server, path, 1000)
    fetch(url(server), path, sha256=None, spec="x")
    assert (path.read_bytes(), names(tmp_path)) == (CONTENT, ["w.bin"])
    assert server.asked == [("bytes=1000-", '"one"')]


@pytest.mark.parametrize("how", ["no ranges", "no etag", "weak etag", "if-range is ignored"])
def test_what_cannot_be_gone_on_with_starts_over(server: Server, tmp_path: Path, how: str) -> None:
    path = tmp_path / "w.bin"
    if how == "no etag":
        server.etag = ""
    elif how == "weak etag":
        server.etag = 'W/"one"'
    break_off(server, path, 1000)
    if how == "no ranges":
        server.ranges = False
    elif how == "if-range is ignored":
        server.heeds_if_range = False
        server.etag, server.content = '"two"', OTHER
    fetch(url(server), path, sha256=None, spec="x")
    assert path.read_bytes() == server.content


def test_a_changed_file_is_not_glued(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    break_off(server, path, 1000)
    server.etag, server.content = '"two"', OTHER
    fetch(url(server), path, sha256=None, spec="x")
    assert path.read_bytes() == OTHER


def test_another_address_starts_over(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    break_off(server, path, 1000)
    server.content = OTHER
    fetch(url(server, "resolve"), path, sha256=None, spec="x")
    assert (path.read_bytes(), server.asked) == (OTHER, [(None, None)])


def test_a_shorter_file_starts_over(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    break_off(server, path, 1000)
    server.content = CONTENT[:900]
    fetch(url(server), path, sha256=None, spec="x")
    assert path.read_bytes() == CONTENT[:900]


def test_a_wrong_hash_is_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^x: the download of http.* is damaged: .*try again"):
        fetch(url(server), tmp_path / "w.bin", sha256="0" * 8, spec="x")
    assert names(tmp_path) == []
    (tmp_path / "w.bin").write_bytes(OTHER)
    with pytest.raises(UserError, match=r"w\.bin is damaged or another file.*; delete it"):
        fetch(url(server), tmp_path / "w.bin", sha256=SHA256[:8], spec="x")


def test_the_hash_that_the_server_tells(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    server.linked = SHA256
    fetch(url(server, "resolve"), path, sha256=None, spec="x")
    assert names(tmp_path) == ["w.bin", "w.bin.sha256"]
    fetch(url(server, "resolve"), path, sha256=None, spec="x")
    path.write_bytes(OTHER)
    with pytest.raises(UserError, match="is damaged or another file"):
        fetch(url(server, "resolve"), path, sha256=None, spec="x")
    path.unlink()
    server.content = OTHER
    with pytest.raises(UserError, match=r"the download of .* is damaged"):
        fetch(url(server, "resolve"), path, sha256=None, spec="x")


def test_another_linked_hash_starts_over(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    server.linked = SHA256
    server.cuts = [1000, 0, 0]
    with pytest.raises(UserError, match="broke off"):
        fetch(url(server, "resolve"), path, sha256=None, spec="x")
    # the same ETag, by mistake of the server
    server.content, server.linked = OTHER, hashlib.sha256(OTHER).hexdigest()
    fetch(url(server, "resolve"), path, sha256=None, spec="x")
    assert path.read_bytes() == OTHER


def test_processes_that_ask_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    threads = [
        threading.Thread(
            target=fetch, args=(url(server), path), kwargs={"sha256": SHA256, "spec": ""}
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (path.read_bytes(), len(server.asked)) == (CONTENT, 1)
    assert names(tmp_path) == ["w.bin"]


def test_without_network(tmp_path: Path, server: Server) -> None:
    server.server_close()
    address = url(server)
    with pytest.raises(UserError) as caught:
        fetch(address, tmp_path / "cache" / "w.bin", sha256=None, spec="timm:x")
    text = str(caught.value)
    for part in (
        "timm:x",
        address,
        str(tmp_path / "cache"),
        "w.bin",
        "no network",
        "path of a file",
    ):
        assert part in text
    assert names(tmp_path / "cache") == []


def test_an_address_that_is_gone(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match=r"x: cannot download http.*/gone: the server answers 404"):
        fetch(url(server, "gone"), tmp_path / "w.bin", sha256=None, spec="x")
    assert names(tmp_path) == []


def test_files_by_their_address(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    path = tmp_path / "cache" / "w.bin"
    path.parent.mkdir()
    # what an interrupted copy left is of no use here
    (tmp_path / "cache" / "w.bin.partial").write_bytes(b"abc")
    fetch((tmp_path / "there").as_uri(), path, sha256=SHA256, spec="x")
    assert (path.read_bytes(), names(path.parent)) == (CONTENT, ["w.bin"])
    with pytest.raises(UserError, match=r"cannot download v\.bin"):
        fetch((tmp_path / "absent").as_uri(), tmp_path / "v.bin", sha256=None, spec="x")


def test_a_folder_that_cannot_be_written(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot download w\.bin"):
        fetch(url(server), tmp_path / "file" / "w.bin", sha256=None, spec="x")


def test_progress_is_shown_in_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stderr = Terminal()
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setenv("TERM", "xterm-256color")
    fetch(url(server), tmp_path / "w.bin", sha256=None, spec="x")
    assert "w.bin" in stderr.getvalue() and "MB" in stderr.getvalue()


@pytest.mark.parametrize("sha256", [None, SHA256])
@pytest.mark.parametrize("told", [True, False])
def test_a_web_page_is_no_file(
    server: Server, tmp_path: Path, sha256: str | None, told: bool
) -> None:
    server.content = b"\n<!DOCTYPE html>\n<title>Log in</title>"
    server.headers = {"Content-Type": "text/html; charset=utf-8"} if told else {}
    with pytest.raises(UserError, match=r"cannot download w\.bin \(the server sends a web page"):
        fetch(url(server), tmp_path / "w.bin", sha256=sha256, spec="x")
    assert not (tmp_path / "w.bin").exists() and not (tmp_path / "w.bin.partial").exists()


def test_a_body_that_cannot_be_checked(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    server.headers = {"Content-Length": ""}
    server.cuts = [1000, 1000]
    with pytest.raises(UserError, match="neither its length nor its SHA-256"):
        fetch(url(server), path, sha256=None, spec="x")
    with pytest.raises(UserError, match="is damaged: its SHA-256 starts with"):
        fetch(url(server), path, sha256=SHA256, spec="x")
    assert names(tmp_path) == []
    assert fetch(url(server), path, sha256=SHA256, spec="x").read_bytes() == CONTENT
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(UserError, match="encoded as gzip"):
        fetch(url(server), tmp_path / "v.bin", sha256=None, spec="x")


def test_a_truncated_body_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.cuts, server.etag = [1000] * download.MAX_TRIES, ""
    with pytest.raises(UserError, match="broke off"):
        fetch(url(server), tmp_path / "w.bin", sha256=None, spec="x")
    assert not (tmp_path / "w.bin").exists()


@pytest.mark.parametrize("location", ["/resolve/on", "ftp://127.0.0.1/file", "file:///etc/passwd"])
def test_redirects_that_lead_astray(server: Server, tmp_path: Path, location: str) -> None:
    server.location = location
    with pytest.raises(UserError, match="cannot download"):
        fetch(url(server, "resolve"), tmp_path / "w.bin", sha256=None, spec="x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("start", "target", "is_fine"),
    [
        ("https://a/w", "https://b/w", True),
        ("http://a/w", "https://b/w", True),
        ("http://a/w", "http://b/w", True),
        ("https://a/w", "http://a/w", False),
        ("https://a/w", "HTTP://a/w", False),
        ("https://a/w", "ftp://a/w", False),
    ],
)
def test_redirects_stay_on_https(start: str, target: str, is_fine: bool) -> None:
    request, redirects = urllib.request.Request(start), download._Redirects()
    arguments = request, io.BytesIO(), 302, "Found", http.client.HTTPMessage(), target
    if is_fine:
        assert redirects.redirect_request(*arguments).full_url == target
    else:
        with pytest.raises(urllib.error.URLError, match="which is not https"):
            redirects.redirect_request(*arguments)
