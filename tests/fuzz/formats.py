"""Broken annotations of other tools, masks as image files, and tables."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

import pyarrow
import pyarrow.parquet

from resdet.data.classification.tables import read_table
from tests.fuzz.mutate import mutate_bytes, mutate_tree, nasty, to_json
from tests.fuzz.texts import changed_xml, dataset, use

FORMATS = Path(__file__).resolve().parents[1] / "data" / "formats"
MASKS = ("object_masks", "label_masks", "class_masks", "cvat_masks")


def copied(folder: Path, name: str) -> tuple[Path, Path]:
    """The images and the annotations of a format, as copies."""
    for each in ("images", name):
        if (FORMATS / each).is_dir():
            shutil.copytree(FORMATS / each, folder / each)
        else:
            shutil.copyfile(FORMATS / each, folder / each)
    return folder / "images", folder / name


def read_as(rng: random.Random, images: Path, path: Path, format: str) -> None:
    """As training reads it, by its name or recognised."""
    known = format if rng.random() < 0.7 else None
    use(dataset(rng, images, path, known, 28 if rng.random() < 0.7 else None))


def labelme(rng: random.Random, folder: Path) -> None:
    """LabelMe's JSON with other values or bytes."""
    images, path = copied(folder, "labelme")
    for file in rng.sample(sorted(path.iterdir()), rng.choice([1, 2, 12])):
        tree = json.loads(file.read_text())
        if rng.random() < 0.3:
            tree["shapes"] += [
                {"label": "m", "shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": PNG},
                {"label": "c", "shape_type": "circle", "points": [[9, 9], [9, 5]], "group_id": 1},
                {
                    "label": "c",
                    "shape_type": "rectangle",
                    "points": [[1, 9], [5, 5]],
                    "group_id": 1,
                },
            ]
        file.write_bytes(to_json(rng, mutate_tree(rng, tree)))
    read_as(rng, images, path, "labelme")


PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAAAAABX3VL4AAAADklEQVR4nGP4/5/h/38ADfcD/f3SHkwAAAAASUVORK5C"
    "YII="
)
"""Four white pixels."""

VIDEO = """<annotations><version>1.1</version><meta><task><labels><label><name>long</name></label>
</labels><start_frame>1</start_frame><stop_frame>3</stop_frame><original_size><width>96</width>
<height>64</height></original_size></task></meta><track id="0" label="long">
<box frame="1" outside="0" keyframe="1" xtl="1" ytl="2" xbr="30" ybr="40"/>
<box frame="2" outside="1" keyframe="1" xtl="1" ytl="2" xbr="30" ybr="40"/></track>
<track id="1" label="long"><polygon frame="3" outside="0" points="1,2;30,4;5,36"/></track>
<image id="9" name="photo_09.png" width="96" height="64">
<ellipse label="long" cx="20" cy="20" rx="9" ry="5" rotation="30"/>
<box label="long" xtl="1" ytl="2" xbr="30" ybr="40" rotation="10"/></image></annotations>"""


def cvat(rng: random.Random, folder: Path) -> None:
    """CVAT's XML, for images or for video, with other words or bytes."""
    images, path = copied(folder, "cvat")
    file = path / "annotations.xml"
    if rng.random() < 0.4:
        file.write_text(VIDEO)
    data = file.read_bytes()
    for _ in range(rng.choice([1, 2, 4])):
        kind = rng.random()
        if kind < 0.7:
            data = _changed_attribute(rng, data)
        else:
            data = changed_xml(rng, data) if kind < 0.8 else mutate_bytes(rng, data, 1)
    file.write_bytes(data)
    read_as(rng, images, rng.choice([path, file]), "cvat")


def _changed_attribute(rng: random.Random, data: bytes) -> bytes:
    """The value of one attribute replaced, or the text of an element."""
    places = list(re.finditer(rb'"[^"<>]*"|>[^<>]+<', data))
    if not places:
        return data
    place = rng.choice(places)
    value = escape(str(nasty(rng))[:5000], {'"': "&quot;"}).encode("utf-8", "replace")
    return data[: place.start() + 1] + value + data[place.end() - 1 :]


def masks(rng: random.Random, folder: Path) -> None:
    """Mask files and their legends with other bytes, names or sizes."""
    name = rng.choice(MASKS)
    images, path = copied(folder, name)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    legends = [file for file in files if file.suffix != ".png"]
    for _ in range(rng.choice([1, 2, 6])):
        file = rng.choice(legends if legends and rng.random() < 0.4 else files)
        if not file.exists():
            continue
        match rng.randrange(6):
            case 0:
                file.unlink()
            case 1:
                other = rng.choice([*files, *images.iterdir()])
                if other.exists():
                    file.write_bytes(other.read_bytes())
            case 2:
                os.replace(file, file.with_name(f"x{rng.choice(files).name}"))  # noqa: PTH105
            case _ if file.suffix != ".png":
                text = file.read_text(errors="replace").replace(",", " , ")
                file.write_bytes(changed_words(rng, text))
            case _:
                file.write_bytes(mutate_bytes(rng, file.read_bytes()))
    format = "class_masks" if name == "cvat_masks" else name
    read_as(rng, images, path, format)


def changed_words(rng: random.Random, text: str) -> bytes:
    """One word of a text replaced."""
    words = text.split(" ")
    words[rng.randrange(len(words))] = str(nasty(rng))[:5000]
    return " ".join(words).encode("utf-8", "surrogatepass")


@cache
def _parquet() -> bytes:
    """Four images as Hugging Face's files have them."""
    files = sorted((FORMATS / "images").iterdir())[:4]
    records = [
        {"image": {"bytes": file.read_bytes(), "path": file.name}, "label": n % 2}
        for n, file in enumerate(files)
    ]
    features = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    content = pyarrow.Table.from_pylist(records).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    buffer = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(content, buffer, row_group_size=2)
    return buffer.getvalue().to_pybytes()


def tables(rng: random.Random, folder: Path) -> None:
    """CSV and parquet tables of images to classify."""
    if rng.random() < 0.5:
        path = folder / "t.csv"
        head = rng.choice(["", "image,class\n", "path;label;x\n"])
        names = [file.name for file in sorted((FORMATS / "images").iterdir())]
        text = head + "".join(f"{name} , {n % 3}\n" for n, name in enumerate(names))
        data = changed_words(rng, text)
        path.write_bytes(mutate_bytes(rng, data) if rng.random() < 0.4 else data)
    else:
        path = folder / "t.parquet"
        path.write_bytes(mutate_bytes(rng, _parquet()))
    os.environ["RESDET_CACHE"] = str(folder / "cache")
    try:
        source = read_table(path, FORMATS / "images")
        for index in range(len(source.labels)):
            assert 0 <= source.labels[index] < len(source.class_names)
            source.open(index).close()
    finally:
        del os.environ["RESDET_CACHE"]
