"""Data sets in their official layouts, by paths alone: --check, and a few steps on real images."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from resdet import cli
from resdet.config.loading import load_config
from resdet.engine.start import train
from tests.data import layouts
from tests.data.make import write_coco
from tests.engine.conftest import losses_of


def voc(folder: Path) -> list[str]:
    years = [layouts.small_voc(folder, year=year) for year in ("VOC2007", "VOC2012")]
    images = [f"{year}/JPEGImages" for year in years]
    lists = [f"{year}/ImageSets/Main/trainval.txt" for year in years]
    test = layouts.small_voc(folder / "test")
    for image in (test / "JPEGImages").iterdir():  # of its own, not a copy of a training image
        Image.open(image).rotate(180).save(image)
    return [
        f"data.train={{images: {images}, annotations: {lists}, format: voc}}",
        f"data.val={{images: {test}/JPEGImages, annotations: {test}/Annotations, format: voc}}",
        "eval.metric=voc07",
    ]


def imagenet_det(folder: Path) -> list[str]:
    root = layouts.small_det(folder)
    images, lists = f"{root}/Data/DET", f"{root}/ImageSets/DET"
    train = f"images: [{images}/val, {images}/train]"
    return [
        f"data.train={{{train}, annotations: [{lists}/val1.txt, {lists}/train_pos_*.txt], "
        "format: imagenet_det}",
        f"data.val={{images: {images}/val, annotations: {lists}/val2.txt, format: imagenet_det}}",
        "eval.metric=imagenet_det",
    ]


def imagenet_loc(folder: Path) -> list[str]:
    root = layouts.small_loc(folder)
    train, val = (f"images: {root}/Data/CLS-LOC/{split}" for split in ("train", "val"))
    table = root.parent / "LOC_val_solution.csv"
    return [
        f"data.train={{{train}, annotations: {root}/Annotations/CLS-LOC/train, "
        "format: imagenet_loc}",
        f"data.val={{{val}, annotations: {table}, format: imagenet_loc}}",
    ]


def coco2014(folder: Path) -> list[str]:
    """Two lists for training, and test-dev, which has no annotations."""
    one = {"id": 1, "file_name": "COCO_train2014_000000000009.jpg", "height": 40, "width": 60}
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 30, 30], "iscrowd": 0}
    train = write_coco(folder, [{**box, "area": 900}], images=[one], name="train.json")
    two = {**one, "id": 2, "file_name": "COCO_val2014_000000000042.jpg"}
    val = write_coco(
        folder, [{**box, "image_id": 2, "area": 900}], images=[two], name="valminusminival.json"
    )
    test = write_coco(folder, [], name="image_info.json")
    info = json.loads(Path(test[1]).read_text())
    del info["annotations"]
    Path(test[1]).write_text(json.dumps(info))
    images, lists = [train[0], val[0]], [train[1], val[1]]
    return [
        f"data.train={{images: {images}, annotations: {lists}}}",
        f"data.val={{images: {test[0]}, annotations: {test[1]}}}",
    ]


@pytest.mark.parametrize(
    ("layout", "counts"),
    [
        (voc, ("data.train: 16 images", "data.val: 8 images")),
        (imagenet_det, ("data.train: 10 images", "data.val: 2 images")),
        (imagenet_loc, ("data.train: 6 images", "data.val: 6 images")),
        (coco2014, ("data.train: 2 images", "data.val: 1 images")),
    ],
)
def test_check(tiny, tmp_path: Path, caplog, layout, counts: tuple[str, str]) -> None:
    caplog.set_level(logging.INFO, "resdet")
    keys = [*layout(tmp_path), "model.roi.mask_head=null"]
    args = ["train-det", str(tiny.config), "--check", "--strict", "--device", "cpu", *keys]
    assert cli.main([*args, "--run-dir", str(tmp_path / "run")]) == 0
    for count in (*counts, "0 finding(s)", "checked; nothing was trained"):
        assert count in caplog.text


def test_minival_on_top_of_another_config(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "minival.yaml"
    parts = ("coco2014_faster_rcnn_r101_c4.yaml", "_base_/coco2014_minival.yaml")
    file.write_text(f"_base_: {[str(repo / 'configs' / part) for part in parts]}")
    data = load_config(file).data
    assert [Path(path).name for path in data.train.images] == ["train2014", "val2014"]
    assert data.val is not None and "minival2014" in data.val.annotations


def test_real_images_in_vocs_layout_train_by_paths_alone(
    tiny, shared_data: Path, tmp_path: Path
) -> None:
    names = [f"{path.stem}" for path in (shared_data / "voc2012_100/images").iterdir()]
    lists = {"train": sorted(names)[:75], "val": sorted(names)[75:78]}
    year = layouts.voc2012_100(shared_data, tmp_path, lists)
    keys = [
        f"data.{part}={{images: {year}/JPEGImages, annotations: {year}/ImageSets/Main/{part}.txt, "
        "format: voc}"
        for part in ("train", "val")
    ]
    keys += ["model.roi.mask_head=null", "train.max_steps=2", "eval.metric=voc12"]
    run = train(str(tiny.config), keys, run_dir=tmp_path / "run", device="cpu")
    assert sorted(losses_of(run)) == [1, 2]
    assert "mAP" in json.loads((run / "eval.json").read_text())
