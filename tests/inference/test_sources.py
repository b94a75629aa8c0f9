"""Inputs that are no plain paths: patterns, lists, addresses, and one live source."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resdet.errors import UserError
from resdet.inference import sources as module
from resdet.inference.addresses import ask_kind, kind_of, name_of
from resdet.inference.sources import list_sources


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with photos/."""
    names = ("a.jpg", "b.PNG", "[1].jpg", "notes.txt", "sub/c.jpg", "sub/deep/d.mp4", ".hidden.jpg")
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(inputs: list[Any], out: str = "out") -> list[str]:
    return [source.name for source in list_sources(inputs, Path(out)).files]


def pipe(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_patterns_match_files_below_their_first_folder(folder: Path) -> None:
    assert names(["photos/*.jpg"]) == ["[1].jpg", "a.jpg"]
    assert names(["photos/**/*.[jJ]*"]) == ["[1].jpg", "a.jpg", "sub/c.jpg"]
    assert names([f"{folder}/p*/s*/**"]) == ["photos/sub/c.jpg", "photos/sub/deep/d.mp4"]
    assert names(["photos/../photos/?.*"]) == ["a.jpg", "b.PNG"]
    # files that exist are no patterns, and folders are searched where nothing else matches
    assert names(["photos/[1].jpg"]) == ["[1].jpg"]
    assert names(["photos/s*"]) == ["c.jpg", "deep/d.mp4"]
    found = list_sources(["photos/*"], folder / "out")
    assert found.others == ["notes.txt"] and len(found.files) == 3
    for pattern in ("photos/*.bmp", "absent/**/*.jpg"):
        with pytest.raises(UserError, match="no file matches this pattern"):
            names([pattern])


def test_former_results_match_no_pattern(folder: Path) -> None:
    (folder / "photos/out/yolo/images").mkdir(parents=True)
    (folder / "photos/out/a.jpg").write_bytes(b"x")
    (folder / "photos/out/yolo/images/a.jpg").symlink_to("../../../a.jpg")
    assert names(["photos/**/a.jpg"], "photos/out") == ["a.jpg"]
    assert names(["photos"], "photos/out").count("a.jpg") == 1
    (folder / "photos/yolo/images").mkdir(parents=True)
    (folder / "photos/yolo/data.yaml").write_text("")
    (folder / "photos/yolo/images/a.jpg").symlink_to("../../a.jpg")
    assert "yolo/images/a.jpg" not in names(["photos"], "photos")
    assert "yolo/images/a.jpg" in names(["photos"], "elsewhere")


def test_lists_on_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, b"photos/a.jpg\r\n\nphotos/sub\nhttp://x/y.png\n")
    assert names(["photos/b.PNG", "-"]) == ["b.PNG", "a.jpg", "c.jpg", "deep/d.mp4", "y.png"]
    odd = os.fsdecode(b"photos/\xff \n.jpg")
    Path(odd).write_bytes(b"x")
    pipe(monkeypatch, b"photos/a.jpg\0photos/\xff \n.jpg\0")
    assert names(["-"]) == ["a.jpg", Path(odd).name]
    for content, problem in ((b"\n \n", "is empty"), (b"a\n-\n", "has the line '-'")):
        pipe(monkeypatch, content)
        with pytest.raises(UserError, match=problem):
            names(["-"])
    Path("# 1.jpg").write_bytes(b"x")
    text = "# the list\n\nphotos/a.jpg\n  \n#photos/b.PNG\n# 1.jpg\n"
    for content in (text.encode(), text.encode("utf-8-sig"), text.encode("utf-16")):
        pipe(monkeypatch, content.replace(b"\n", b"\r\n") if content[:1] == b"#" else content)
        assert names(["-"]) == ["a.jpg", "# 1.jpg"]
    pipe(monkeypatch, b"photos/a.jpg\n")
    with pytest.raises(UserError, match="is given twice"):
        names(["-", "-"])
    pipe(monkeypatch, b"photos/a.jpg\nphotos/absent.jpg\n")
    with pytest.raises(UserError, match=r"photos/absent\.jpg: no such image"):
        names(["-"])
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        names(["-"])


@pytest.mark.parametrize(
    ("given", "kind", "name"),
    [
        ("http://x.org/d/a%20b.jpg?size=2", "image", "a b.jpg"),
        ("https://x.org/clip.MP4", "video", "clip.MP4"),
        ("https://x.org/..%2f..%2fb.png", "image", "b.png"),
        ("https://me:pw@x.org/", None, "x-org"),
        ("https://x.org/200", None, "200"),
        ("https://x.org/live/index.m3u8", "live", "index.m3u8"),
        ("live:https://x.org/a.jpg", "live", "a.jpg"),
        ("rtsp://me:pw@10.0.0.5:554/stream1", "live", "stream1"),
        ("rtsp://10.0.0.5", "live", "10-0-0-5"),
        ("udp://239.0.0.1:1234", "live", "239-0-0-1"),
        ("webcam:0", "live", "webcam-0"),
    ],
)
def test_kinds_of_addresses(given: str, kind: str | None, name: str) -> None:
    assert kind_of(given) == kind
    assert name_of(given) == name


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("file:///home/me/a.jpg", "file:///home/me/a.jpg: addresses of files are not read"),
        ("ftp://x.org/a.jpg", "is not an address that can be read; give http"),
        ("s3://bucket/a.jpg", "is not an address that can be read"),
        ("http:///a.jpg", "is not an address that can be read"),
        ("http://x.org:port/a.jpg", "is not an address"),
        ("webcam:", "is not a webcam; give its number"),
        ("webcam:front", "is not a webcam"),
        ("live:photos/a.jpg", "is not an address"),
        ("rtsp://me:secret@/x", "is not an address"),
    ],
)
def test_addresses_that_are_not_read(given: str, problem: str, folder: Path) -> None:
    with pytest.raises(UserError, match=problem) as caught:
        names(["photos/a.jpg", given])
    assert "secret" not in str(caught.value)


def test_files_with_names_of_addresses(folder: Path) -> None:
    for name in ("webcam:0", "-", "live:x"):
        Path(name).write_bytes(b"x")
        assert names([f"./{name}"]) == [name]


def test_a_server_is_asked_where_the_address_does_not_tell(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    types = {
        "http://x/1": "image/png",
        "http://x/2": "video/mp4",
        "http://x/3": "text/html",
        "http://x/4": "",
        "http://x/5": "multipart/x-mixed-replace",
    }
    monkeypatch.setattr("resdet.inference.addresses.content_type", types.__getitem__)
    assert ask_kind("http://x/5") == "live"
    with caplog.at_level(logging.ERROR, "resdet"):
        found = list_sources([*list(types)[:4], "photos/a.jpg"], folder / "out")
    assert [(s.name, s.is_video) for s in found.files] == [
        *(("1", False), ("2", True), ("4", False), ("a.jpg", False))
    ]
    assert found.problems and "http://x/3: is a web page" in caplog.text
    assert found.files[0].target.name == "1.jpg" and found.files[1].target.name == "2"
    with pytest.raises(UserError, match="http://x/3: is a web page"):
        names(["http://x/3"])
    with pytest.raises(UserError, match="http://x/5: is live and among 2 inputs; give it alone"):
        names(["http://x/5", "photos/a.jpg"])


def test_passwords_are_in_no_name(folder: Path) -> None:
    (source,) = list_sources(["rtsp://me:secret@cam/s"], folder / "out").files
    assert source.is_live and source.is_video and source.shown == "rtsp://cam/s"
    assert "secret" not in repr(source) and "secret" not in str(source.target)
    assert module.list_sources(["live:http://u:secret@x/a"], folder / "o").files[0].shown == (
        "http://x/a"
    )
