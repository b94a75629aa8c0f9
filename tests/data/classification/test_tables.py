"""Images to classify by CSV and parquet tables, and what a user may get wrong in them."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet as pq
import pytest

from resdet.data.classification import parquet as parquet_module
from resdet.data.classification.folder import FileImages, read_class_folders
from resdet.data.classification.parquet import PackedImages
from resdet.data.classification.samples import Source
from resdet.data.classification.tables import read_table
from resdet.errors import UserError
from resdet.files.findings import DataError
from tests.data.make_cls import picture, write_classes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "images", {"ant": 2, "bee": 3})


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows(images: Path) -> list[tuple[str, str]]:
    found = sorted(images.glob("*/*.jpg"))
    return [(path.relative_to(images).as_posix(), path.parent.name) for path in found]


def listed(source: Source) -> list[tuple[str, str]]:
    pairs = zip(source.names, source.labels.tolist(), strict=True)
    return [(name, source.class_names[label]) for name, label in pairs]


@pytest.mark.parametrize(
    ("head", "separator", "encoding"),
    [
        ("", ",", "utf-8"),
        ("image,class\n", ",", "utf-8-sig"),
        ("File_Name;Label\n", ";", "utf-16"),
        ("sep=;\r\nFile_Name;Label\n", ";", "utf-8"),
        ("image_path\tcategory\n", "\t", "utf-8"),
    ],
)
def test_csv_gives_what_class_folders_give(
    images: Path, tmp_path: Path, head: str, separator: str, encoding: str
) -> None:
    lines = [f"{image}{separator}{name}\r\n" for image, name in rows(images)]
    path = table(tmp_path, (head + "".join(lines)).encode(encoding))
    source, folders = read_table(path, images), read_class_folders(images)
    assert isinstance(source, FileImages) and not source.findings
    assert listed(source) == listed(folders) and source.class_names == folders.class_names


def test_other_columns_full_paths_and_numbers(images: Path, tmp_path: Path) -> None:
    lines = [
        f"{n},0.5,{images / image},{10 - n}" for n, (image, _) in enumerate(rows(images), start=1)
    ]
    path = table(tmp_path, "\n".join(["id,weight,path,target", *lines]))
    source = read_table(path, tmp_path / "elsewhere")
    assert source.class_names == ["5", "6", "7", "8", "9"]  # by number, not as text
    with source.open(0) as file:
        assert file.read() == (images / "ant" / "0.jpg").read_bytes()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ant/9.jpg,ant", "line 7 has no file 'ant/9.jpg' in .*images; it is left out"),
        ("ant/0.jpg,ant", "line 7 names 'ant/0.jpg' again; it is read once"),
        ("ant/0.jpg,bee", "line 7 gives 'ant/0.jpg' the class 'bee', and line 2 'ant'; the image"),
        ("ant/0.jpg", r"line 7 has 1 cell\(s\), and the first line 2; it is left out"),
        ("ant/0.jpg,ant,1", r"line 7 has 3 cell\(s\)"),
        ("ant/0.jpg,", "line 7 has no class; it is left out"),
        (",ant", "line 7 has no image; it is left out"),
        ("../t.csv,ant", "line 7 has no file"),
        ("ant/\0.jpg,ant", "line 7 has no image"),
    ],
)
def test_unusable_lines_are_one_finding(
    images: Path, tmp_path: Path, line: str, message: str
) -> None:
    lines = [",".join(pair) for pair in rows(images)]
    source = read_table(table(tmp_path, "\n".join(["image,class", *lines, line])), images)
    assert len(source.findings) == 1 and len(source.labels) == (4 if "gives" in message else 5)
    assert re.search(message, str(source.findings[0])), source.findings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; write a line image,class"),
        (b"a,b,c\n1,2,3\n", r"its first line \(a, b, c\) has no column of images and of classes"),
        (b"image,weight\nx.jpg,1\n", "call the columns image and class"),
        (b"image,class\nx.jpg,ant\n", "none of its images is in .*line 2 has no file 'x.jpg'"),
        (b'image,class\n"x.jpg,ant\n', "is not valid CSV"),
        (b"\xff\xfe\x00", "can't be read as CSV"),
        (b"caf\xe9.jpg,ant", "can't be read as CSV .*write it in UTF-8"),
    ],
)
def test_unusable_tables(images: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = table(tmp_path, content)
    with pytest.raises(DataError, match=message) as error:
        read_table(path, images)
    assert str(error.value).startswith(str(path))


def test_tables_that_are_not_there(images: Path) -> None:
    with pytest.raises(DataError, match="no such file; give a CSV file"):
        read_table(images / "absent.csv", images)
    with pytest.raises(DataError, match=r"is a folder; give .*data/train-\*\.parquet"):
        read_table(images, images)


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "JPEG")
    return file.getvalue()


def hugging_face(
    folder: Path, records: list[Any], name: str = "train-0.parquet", **more: Any
) -> Path:
    """A file as `datasets` writes it, of (bytes, path, label)."""
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    names = more.get("names", ["bee", "ant", "wasp"])
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([("image", image), ("label", pyarrow.int64())], metadata=metadata)
    columns = [[{"bytes": b, "path": p} for b, p, _ in records], [label for _, _, label in records]]
    folder.mkdir(exist_ok=True)
    content = pyarrow.table(columns, schema=schema)
    pq.write_table(content, folder / name, row_group_size=2)
    return folder / name


def test_hugging_faces_images_are_unpacked_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = hugging_face(tmp_path / "hf", [(jpeg(n), f"{n}.jpg", n % 2) for n in range(5)])
    hugging_face(tmp_path / "hf", [(jpeg(9), None, 1)], "train-1.parquet")
    source = read_table(tmp_path / "hf" / "train-*.parquet", tmp_path)
    assert isinstance(source, PackedImages) and not source.findings
    assert source.class_names == ["bee", "ant", "wasp"]  # the order of the metadata
    assert source.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert source.name(3) == f"{first}/row 3 (3.jpg)"
    for index, seed in enumerate([0, 1, 2, 3, 4, 9]):
        with source.open(index) as file:
            assert file.read() == jpeg(seed)
    assert source.file_bytes(np.arange(6)).tolist() == [len(jpeg(n)) for n in (0, 1, 2, 3, 4, 9)]
    with monkeypatch.context() as patch:
        patch.setattr(parquet_module, "open_atomic", None)  # nothing is written again
        again = read_table(tmp_path / "hf" / "train-*.parquet", tmp_path)
        assert listed(again) == listed(source)
    hugging_face(tmp_path / "hf", [(jpeg(7), "x.jpg", 2)])
    changed = read_table(tmp_path / "hf" / "train-*.parquet", tmp_path)
    assert changed.labels.tolist() == [2, 1]


def test_paths_and_names_in_parquet(images: Path, tmp_path: Path) -> None:
    pairs = rows(images)
    path = tmp_path / "t.parquet"
    pq.write_table(
        pyarrow.table({"path": [p for p, _ in pairs], "label": [n for _, n in pairs]}), path
    )
    source = read_table(path, images)
    assert isinstance(source, FileImages)
    assert listed(source) == listed(read_class_folders(images))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ((None, "a.jpg", 1), "row 1 has an image without bytes; it is left out"),
        ((b"", "a.jpg", 1), "row 1 has an image without bytes"),
        ((b"x", "a.jpg", 7), "row 1 has label 7, and there are 3 names; it is left out"),
        ((b"x", "a.jpg", -1), "row 1 has label -1"),
        ((b"x", "a.jpg", None), "row 1 has label None, not a number or name"),
    ],
)
def test_unusable_rows_are_one_finding(tmp_path: Path, record: Any, message: str) -> None:
    path = hugging_face(tmp_path / "hf", [(jpeg(0), "0.jpg", 0), record, (jpeg(2), "2.jpg", 1)])
    for _ in range(2):  # unpacked, and from the cache
        source = read_table(path, tmp_path)
        assert len(source.labels) == 2
        assert [message in str(finding) for finding in source.findings] == [True]


def test_unusable_parquet_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hugging_face(tmp_path / "hf", [(jpeg(0), "0.jpg", 0), (jpeg(1), "1.jpg", 1)])
    content = path.read_bytes()
    for damaged in (content[:-9], b"", b"PAR1PAR1", content[:100] + content[:-100]):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"can't be read as parquet .*download or write it again"
        ):
            read_table(path, tmp_path)
    other = tmp_path / "o.parquet"
    pq.write_table(pyarrow.table({"a": [1], "b": [2]}), other)
    with pytest.raises(DataError, match=r"its columns \(a, b\) have none of images and classes"):
        read_table(other, tmp_path)
    pq.write_table(pyarrow.table({"image": [1], "label": [2]}), other)
    with pytest.raises(DataError, match="column 'image' is of type int64; give paths, bytes"):
        read_table(other, tmp_path)
    hugging_face(tmp_path / "hf", [(None, "0.jpg", 0)])
    with pytest.raises(DataError, match="has no image with bytes and a class"):
        read_table(path, tmp_path)
    twice = hugging_face(tmp_path / "hf", [(jpeg(0), "0", 0), (jpeg(1), "1", 1)], names=["a", "a"])
    source = read_table(twice, tmp_path)
    assert source.class_names == ["0", "1"] and "distinct names" in str(source.findings[0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'resdet\[parquet\]'"):
        read_table(path, tmp_path)


def test_paths_that_are_too_long(images: Path, tmp_path: Path) -> None:
    name, label = rows(images)[0]
    text = f"image,class\n{name},{label}\n/{'x' * 5000},{label}\n"
    assert listed(read_table(table(tmp_path, text), images)) == [(name, label)]


def test_a_cache_that_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "file"))
    packed = tmp_path / "t.parquet"
    pq.write_table(pyarrow.table({"image": [b"x"], "label": ["ant"]}), packed)
    with pytest.raises(UserError, match=r"cannot be made a folder.*RESDET_CACHE"):
        read_table(packed, tmp_path)
