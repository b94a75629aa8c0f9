"""Every folder is listed by one rule: links once, no cycles, nothing that archives leave behind."""

import os
from pathlib import Path

import pytest

from resdet.files.walk import list_files, walk


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_files_are_sorted_below_their_folder(tmp_path: Path) -> None:
    make(tmp_path, "b/x.jpg", "b-c/x.jpg", "a.JPG", "b/deep/er/y.png", "notes.txt")
    assert list_files(tmp_path).files == [
        "a.JPG",
        "b-c/x.jpg",
        "b/deep/er/y.png",
        "b/x.jpg",
        "notes.txt",
    ]
    assert list(walk(tmp_path, (".jpg",))) == [
        tmp_path / name for name in ("a.JPG", "b-c/x.jpg", "b/x.jpg")
    ]


def test_what_archives_and_storages_add_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "__MACOSX/a/._x.jpg", "a/@eaDir/x.jpg/THUMB.jpg", "a/._x.jpg")
    make(tmp_path, ".cache/x.jpg", "a/.hidden.jpg", "#recycle/x.jpg")
    assert list_files(tmp_path).files == ["a/x.jpg"]
    # the folder that is given counts whatever it is called
    assert list_files(tmp_path / ".cache").files == ["x.jpg"]


def test_a_link_to_a_containing_folder_is_not_followed(tmp_path: Path) -> None:
    root = make(tmp_path / "set", "a/x.jpg", "b/y.jpg")
    make(tmp_path, "outside.jpg")
    for name, target in (("a/self", "."), ("a/up", ".."), ("b/out", "../.."), ("b/disk", "/")):
        (root / name).symlink_to(target, target_is_directory=True)
    listing = list_files(root)
    assert listing.files == ["a/x.jpg", "b/y.jpg"]
    assert listing.repeated == ["a/self", "a/up", "b/disk", "b/out"]
    assert "a/self leads to a folder that contains it" in str(listing.findings(root)[0])


def test_links_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    make(tmp_path / "store", "one/1.jpg", "one/sub/2.jpg", "3.jpg")
    root = make(tmp_path / "set", "real/4.jpg")
    (root / "a").symlink_to(tmp_path / "store/one")
    (root / "b").symlink_to("a")
    (root / "again").symlink_to("real")
    (root / "file.jpg").symlink_to("real/4.jpg")
    (root / "gone.jpg").symlink_to("nowhere.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    listing = list_files(root)
    # the real folder wins over links that sort before it; links to files and dead ones are listed
    assert listing.files == [
        "a/1.jpg",
        "a/sub/2.jpg",
        "file.jpg",
        "gone.jpg",
        "loop.jpg",
        "real/4.jpg",
    ]
    assert listing.repeated == ["again", "b"]


def test_two_linked_folders_that_link_to_each_other_end(tmp_path: Path) -> None:
    store = make(tmp_path / "store", "a/1.jpg", "b/2.jpg")
    (store / "a/to_b").symlink_to(store / "b")
    (store / "b/to_a").symlink_to(store / "a")
    root = tmp_path / "set"
    root.mkdir()
    (root / "in").symlink_to(store / "a")
    listing = list_files(root)
    assert listing.files == ["in/1.jpg", "in/to_b/2.jpg"]
    assert listing.repeated == ["in/to_b/to_a"]


def test_chosen_subfolders_only(tmp_path: Path) -> None:
    make(tmp_path, "a/x.jpg", "b/y.jpg", "b/a/z.jpg", "c/w.jpg", "loose.jpg")
    (tmp_path / "d").symlink_to("c")
    assert list_files(tmp_path, ["b", "d"]).files == ["b/a/z.jpg", "b/y.jpg", "d/w.jpg"]


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a/x.jpg", "b/y.jpg")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(tmp_path / "a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files(tmp_path)
    assert listing.files == ["b/y.jpg"]
    assert "a/ can't be listed (Permission denied)" in str(listing.findings(tmp_path)[0])


def test_a_missing_folder_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert list(walk(tmp_path / "none")) == []
    assert "can't be listed (No such file or directory)" in caplog.text
