"""Tar shards: the same images as the folder, an index that notices changes, and broken files."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resdet.data.classification import shards
from resdet.data.classification.folder import read_class_folders
from resdet.data.classification.shards import INDEX_FILE, ShardImages, read_shards
from resdet.files.findings import DataError
from tests.data.make_cls import picture, write_classes


@pytest.fixture
def pack(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs datasets/prepare_shards.py; SystemExit is its end."""

    def run(*arguments: object) -> None:
        script = str(repo / "datasets" / "prepare_shards.py")
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(script, run_name="__main__")

    return run


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def contents(images: ShardImages) -> list[tuple[str, bytes]]:
    found = []
    for index, label in enumerate(images.labels):
        with images.open(index) as file:
            found.append((images.class_names[label], file.read()))
    return found


def test_packed_shards_hold_the_folders_images(
    shared_data: Path,
    tmp_path: Path,
    pack: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = shared_data / "hymenoptera_256" / "val"
    pack(source, tmp_path / "out", "--per-shard", 50)
    assert "153 images of 2 classes in 4 shard(s)" in capsys.readouterr().out
    images = read_shards(tmp_path / "out")
    folder = read_class_folders(source)
    assert images.class_names == folder.class_names == ["ants", "bees"]
    expected = [
        (folder.class_names[label], Path(folder.name(i)).read_bytes())
        for i, label in enumerate(folder.labels)
    ]
    assert sorted(contents(images)) == sorted(expected)
    assert contents(images) != expected  # in random order, for whoever streams them
    assert np.bincount(images.places[:, 0]).tolist() == [50, 50, 50, 3]
    assert "shard-00000.tar/00000000_" in images.name(0)
    with pytest.raises(SystemExit, match="already has shards"):
        pack(source, tmp_path / "out")


def test_packing_says_what_is_wrong(tmp_path: Path, pack: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match="none: no such folder"):
        pack(tmp_path / "none", tmp_path / "out")
    write_classes(tmp_path / "set", {"a": 1, "b": 1})
    with pytest.raises(SystemExit, match="2"):
        pack(tmp_path / "set", tmp_path / "out", "--per-shard", 0)


def test_dots_in_names_and_a_flat_val_are_packed(tmp_path: Path, pack: Callable[..., None]) -> None:
    source = tmp_path / "val"
    source.mkdir()
    for name in ("a.b.jpg", "a.jpg", "c.JPG"):
        (source / name).write_bytes(jpeg(len(name)))
    (source / "val.txt").write_text("a.b.jpg n2\na.jpg n1\nc.JPG n1\n")
    pack(source, tmp_path / "out")
    images = read_shards(tmp_path / "out")
    assert images.findings == []
    expected = [("n1", jpeg(5)), ("n1", jpeg(5)), ("n2", jpeg(7))]
    assert sorted(contents(images)) == sorted(expected)


def two_shards(root: Path) -> Path:
    write_tar(
        root / "a.tar", {"x/1.jpg": jpeg(1), "x/1.cls": b"1\n", "x/2.cls": b"0", "x/2.png": b"2"}
    )
    write_tar(root / "b.tar", {"7.txt": b"-", "7.jpeg": jpeg(7), "7.cls": b"1", "8.seg.png": b"-"})
    (root / "classes.json").write_text(json.dumps(["cat", "dog"]))
    return root


def test_classes_by_number_or_name(tmp_path: Path) -> None:
    images = read_shards(two_shards(tmp_path / "n"))
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0, 1]
    assert [images.names[i] for i in range(3)] == ["x/1.jpg", "x/2.png", "7.jpeg"]
    assert contents(images)[2] == ("dog", jpeg(7))
    named = tmp_path / "named"
    write_tar(named / "a.tar", {"1.jpg": b"1", "1.cls": b"zebra", "2.jpg": b"2", "2.cls": b"ant"})
    images = read_shards(named)
    assert images.class_names == ["ant", "zebra"] and images.labels.tolist() == [1, 0]
    images = read_shards(named, train_classes=["zebra", "bee", "ant"])
    assert images.labels.tolist() == [0, 2]
    images = read_shards(named, classes=["ant"])
    assert contents(images) == [("ant", b"2")]
    bare = tmp_path / "bare"
    write_tar(bare / "a.tar", {"1.jpg": b"1", "1.cls": b"2"})
    assert read_shards(bare).class_names == ["0", "1", "2"]
    (bare / "classes.json").write_text('["a", "b"]')
    with pytest.raises(
        DataError, match=r"a\.tar: 1\.jpg has the class '2', which is not in classes"
    ):
        read_shards(bare)
    (bare / "classes.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match=r"classes\.json: give a list of class names"):
        read_shards(bare)


def test_the_index_is_made_once_and_again_after_a_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = two_shards(tmp_path)
    with caplog.at_level(logging.INFO, "resdet"):
        first = read_shards(root)
        assert caplog.text.count("indexing 2 shard(s)") == 1
        second = read_shards(root)
        assert caplog.text.count("indexing") == 1
        assert contents(first) == contents(second)
        assert [first.name(i) for i in range(3)] == [second.name(i) for i in range(3)]
        write_tar(root / "b.tar", {"9.jpg": jpeg(9), "9.cls": b"0"})
        assert contents(read_shards(root))[2] == ("cat", jpeg(9))
        assert caplog.text.count("indexing") == 2
        # one that was cut off is no index
        data = (root / INDEX_FILE).read_bytes()
        (root / INDEX_FILE).write_bytes(data[: len(data) // 2])
        assert len(read_shards(root).labels) == 3
        assert caplog.text.count("indexing") == 3
    assert sorted(path.name for path in root.iterdir()) == [
        "a.tar", "b.tar", "classes.json", INDEX_FILE,
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_is_indexed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = two_shards(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shards.np, "savez", refuse)
    with caplog.at_level(logging.INFO, "resdet"):
        assert len(read_shards(root).labels) == len(read_shards(root).labels) == 3
    assert "can't be written" in caplog.text
    assert not any(path.name.startswith(".") for path in root.iterdir())


def test_broken_tar_files_are_named(tmp_path: Path) -> None:
    root = tmp_path / "broken"
    whole = two_shards(root) / "a.tar"
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        second = tar.getmembers()[1].offset
    write_tar(root / "junk.tar", {}).write_bytes(b"not a tar file" * 100)
    for cut, message in {
        second: r"cut short after its member 1: no end marker",
        second + 100: r"a\.tar: the tar file is broken",
        600: r"cut short within its member 1, x/1\.jpg",
    }.items():
        whole.write_bytes(data[:cut])
        with pytest.raises(DataError, match=message) as caught:
            read_shards(root)
        assert f"{root / 'junk.tar'}: the tar file is broken" in str(caught.value)
        assert "copy or pack it again" in str(caught.value)
    assert not (root / INDEX_FILE).exists()


def test_what_is_no_shard_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.tar in it"):
        read_shards(tmp_path)
    with pytest.raises(DataError, match=r"no such folder"):
        read_shards(tmp_path / "none")
    write_tar(tmp_path / "n01440764.tar", {"n01440764_1.JPEG": jpeg(1)})
    with pytest.raises(
        DataError, match=r"no image .* has a \.cls.*unpack each into a folder of its name"
    ):
        read_shards(tmp_path)
    write_tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "1.cls": b"0"})
    [finding] = read_shards(tmp_path).findings
    assert "n01440764.tar/n01440764_1.JPEG without a .cls member; they are left out" in str(finding)


def test_reading_does_not_depend_on_the_process(tmp_path: Path) -> None:
    images = read_shards(two_shards(tmp_path))
    expected = contents(images)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"same" if contents(images) == expected else b"other")
        os._exit(0)
    assert contents(images) == expected
    assert os.read(reader, 5) == b"same"
    os.waitpid(child, 0)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [b"1000000000", b"1000000", b"9" * 5000, b"0" * 5 + b"7" * 30])
def test_class_numbers_that_are_mistakes(tmp_path: Path, number: bytes) -> None:
    members = {"1.jpg": jpeg(1), "1.cls": b"1", "2.jpg": jpeg(1), "2.cls": number}
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(
        DataError, match=r"a\.tar: 2\.jpg has the class number .*classes\.json"
    ) as error:
        read_shards(tmp_path)
    assert len(str(error.value)) < 400
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    with pytest.raises(DataError, match=r"a\.tar: 2\.jpg has the class"):
        read_shards(tmp_path)


def test_class_numbers_may_have_zeros_in_front(tmp_path: Path) -> None:
    members = {"1.jpg": jpeg(1), "1.cls": b"0" * 300 + b"2", "2.jpg": jpeg(1), "2.cls": b"00"}
    write_tar(tmp_path / "a.tar", members)
    images = read_shards(tmp_path)
    assert images.class_names == ["0", "1", "2"] and images.labels.tolist() == [2, 0]


def test_a_class_of_megabytes_is_no_name(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": jpeg(1), "1.cls": b"x" * 100_000})
    with pytest.raises(DataError, match=r"is broken \(1\.cls has 100,000 bytes, and no name\)"):
        read_shards(tmp_path)
