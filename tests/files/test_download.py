"""Downloads from a server on this machine: what is read, and what is refused."""

from __future__ import annotations

import base64
import io
import logging
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from resdet.errors import UserError
from resdet.files import download as module
from resdet.files.download import (
    Limits,
    content_type,
    download,
    is_address,
    read_address,
    without_password,
)

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """Answers by the path; counts the requests of each."""

    protocol_version = "HTTP/1.1"
    counts: ClassVar[dict[str, int]] = {}
    answers: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.counts[path] = self.counts.get(path, 0) + 1
        answer = self.answers[path]
        code, headers, body = answer(self) if callable(answer) else answer
        self.send_response(code)
        headers = {"Content-Length": str(len(body)), "Connection": "close"} | headers
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    service = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=service.serve_forever, args=(0.02,))
    thread.start()
    yield f"127.0.0.1:{service.server_port}"
    service.shutdown()
    thread.join()
    service.server_close()


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.counts, Handler.answers = {}, {}
    return Handler.answers


def image(kind: str | None = "image/png") -> tuple[int, dict[str, Any], bytes]:
    return 200, {"Content-Type": kind}, png()


def test_an_image_is_that_of_its_file(server: str, answers: dict[str, Any]) -> None:
    for kind in ("image/png", "application/octet-stream", None, "image/jpeg; charset=x"):
        answers["/a b/ä.png"] = answers["/a%20b/%C3%A4.png"] = image(kind)
        np.testing.assert_array_equal(read_address(f"http://{server}/a b/ä.png?x=1"), PIXELS)
    assert content_type(f"http://{server}/a%20b/%C3%A4.png") == "image/jpeg"
    with pytest.raises(UserError, match=rf"http://{server}/.*has 32×24 pixels, more than"):
        read_address(f"http://{server}/a%20b/%C3%A4.png", max_pixels=700)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("text/html; charset=utf-8", "is a web page, not an image"),
        ("application/json", "is application/json, not an image"),
        ("video/mp4", "is video/mp4, not an image"),
        ("multipart/x-mixed-replace; boundary=x", "is a live stream .* give live:http://127"),
    ],
)
def test_other_types_are_refused(
    server: str, answers: dict[str, Any], kind: str, problem: str
) -> None:
    answers["/a"] = image(kind)
    with pytest.raises(UserError, match=problem):
        read_address(f"http://{server}/a")
    assert Handler.counts["/a"] == 1


def test_what_may_pass_is_tried_again(
    server: str, answers: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "resdet")

    def busy(handler: Handler) -> tuple[int, dict[str, Any], bytes]:
        if Handler.counts["/a"] == 1:
            return 503, {}, b""
        return (200, {"Content-Length": "99999"}, png()) if Handler.counts["/a"] == 2 else image()

    answers["/a"] = busy
    np.testing.assert_array_equal(read_address(f"http://{server}/a"), PIXELS)
    assert Handler.counts["/a"] == 3
    assert "HTTP 503 Service Unavailable; trying again" in caplog.text
    answers["/b"], answers["/c"] = (500, {}, b""), (404, {}, b"")
    with pytest.raises(UserError, match=r"/b: cannot be read after 3 tries \(HTTP 500"):
        read_address(f"http://{server}/b")
    with pytest.raises(UserError, match=r"/c: cannot be read \(HTTP 404 Not Found\); check"):
        read_address(f"http://{server}/c")
    assert (Handler.counts["/b"], Handler.counts["/c"]) == (3, 1)


def test_no_server_and_no_host(answers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"after 3 tries \(.*refused"):
        read_address("http://127.0.0.1:9/a.png")
    for address in ("http:///a.png", "http://127.0.0.1:x/a.png", "ftp://127.0.0.1/a.png"):
        with pytest.raises(UserError):
            read_address(address)


def test_redirects_stay_on_the_web(server: str, answers: dict[str, Any]) -> None:
    answers["/a"] = image()
    answers["/moved"] = (302, {"Location": "/a"}, b"")
    answers["/loop"] = (302, {"Location": "/loop"}, b"")
    np.testing.assert_array_equal(read_address(f"http://{server}/moved"), PIXELS)
    for place in ("file:///etc/passwd", "ftp://127.0.0.1/a", "data:image/png;base64,AA"):
        answers["/away"] = (302, {"Location": place}, b"")
        with pytest.raises(UserError, match=r"/away: "):
            read_address(f"http://{server}/away")
    with pytest.raises(UserError, match=r"/loop: cannot be read \(HTTP 302, more than 5 redirects"):
        read_address(f"http://{server}/loop")
    assert Handler.counts["/loop"] <= module.MOST_REDIRECTS + 1


def test_sizes_and_times_are_limited(
    server: str, answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IMAGE", Limits(1000, 10, "image"))
    answers["/a"] = image()
    with pytest.raises(UserError, match=r"/a: has [\d,]+ bytes, more than"):
        read_address(f"http://{server}/a")
    # without a stated length too
    answers["/b"] = (200, {"Content-Length": None}, png())
    with pytest.raises(UserError, match="/b: sends more than"):
        read_address(f"http://{server}/b")
    monkeypatch.setattr(module, "IMAGE", Limits(1 << 20, -1, "image"))
    with pytest.raises(UserError, match="takes more than"):
        read_address(f"http://{server}/a")


def test_passwords_are_sent_and_not_shown(server: str, answers: dict[str, Any]) -> None:
    sent: list[str | None] = []

    def closed(handler: Handler) -> tuple[int, dict[str, Any], bytes]:
        sent.append(handler.headers.get("Authorization"))
        return image()

    answers["/a"] = closed
    read_address(f"http://me:p%40ss@{server}/a")
    assert sent == ["Basic " + base64.b64encode(b"me:p@ss").decode()]
    answers["/b"] = (403, {}, b"")
    with pytest.raises(UserError) as caught:
        read_address(f"http://me:secret@{server}/b")
    assert "secret" not in str(caught.value) and f"http://{server}/b" in str(caught.value)
    assert without_password("rtsp://u:p@cam:554/s?q=1") == "rtsp://cam:554/s?q=1"


def test_videos_go_to_a_file_and_playlists_are_refused(
    server: str, answers: dict[str, Any]
) -> None:
    content = b"\0\0\0\x20ftypisom" + bytes(600_000)
    answers["/a.mp4"] = (200, {"Content-Type": "video/mp4"}, content)
    answers["/b.mp4"] = (200, {"Content-Type": "video/mp4"}, b"#EXTM3U\nfile:///etc/passwd\n")
    answers["/c.mp4"] = (200, {"Content-Type": "text/html"}, b"<html>")
    with tempfile.NamedTemporaryFile() as file:
        download(f"http://{server}/a.mp4", file, Event())
        file.seek(0)
        assert file.read() == content
        with pytest.raises(UserError, match="is a playlist, not a video"):
            download(f"http://{server}/b.mp4", file, Event())
        with pytest.raises(UserError, match="is a web page, not a video"):
            download(f"http://{server}/c.mp4", file, Event())


def test_a_download_is_stopped(server: str, answers: dict[str, Any]) -> None:
    answers["/a.mp4"], stop = (200, {"Content-Type": "video/mp4"}, bytes(600_000)), Event()
    stop.set()
    with (
        tempfile.NamedTemporaryFile() as file,
        pytest.raises(UserError, match="was not read to its end, as the command was stopped"),
    ):
        download(f"http://{server}/a.mp4", file, stop)


def test_addresses_are_told_from_paths() -> None:
    assert is_address("https://x/a.png") and is_address("rtsp://cam")
    for path in ("a.png", "C://x", "a:b", "//server/share", "dir/https://x"):
        assert not is_address(path)
