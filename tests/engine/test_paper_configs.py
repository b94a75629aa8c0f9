"""Every detector of the paper takes a step on data in its official layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import resdet
from resdet.config import load_config
from resdet.interop.coco_classes import COCO_CATEGORIES
from tests.data.layouts import small_det, small_voc

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RUN = ["train.max_steps=1", "train.batch_size=1", "train.precision=fp32", "train.threads=1"]
RUN += ["data.workers=0", "log.tensorboard=false", "log.every=1", "data.augment.resize.max_size=96"]
RUN += ["data.augment.resize.short_edges=[64]", "data.test_resize.short_edge=64"]
RUN += ["data.test_resize.max_size=96", "model.rpn.post_nms_topk_train=20"]
RUN += [
    "eval.val_loss=false",
    "model.rpn.post_nms_topk_test=5",
    "model.roi.num_samples=8",
    "model.detections_per_image=2",
]
SMALL = {
    "c4": [
        "model.backbone.name=resnet18",
        "model.backbone.stride_in_1x1=null",
        "model.roi.box_head.pool_size=4",
    ],
    "vgg16": ["model.roi.box_head.fc_dim=8"],
}
VALIDATED = ("voc07_faster_rcnn_vgg16", "coco2014_faster_rcnn_r101_c4")
VALIDATED += ("imagenet_det_faster_rcnn_r101_c4",)
"""One config per metric also validates."""
SCRATCH = ["model.backbone.weights=null", "model.backbone.freeze_at=0"]


def write_coco(folder: Path, count: int) -> Path:
    """datasets/coco of both splits of 2014: pictures of one class each, all 80 categories."""
    rng = np.random.default_rng(0)
    for split in ("train2014", "val2014"):
        (folder / split).mkdir(parents=True)
        images, objects = [], []
        for i in range(count):
            name = f"COCO_{split}_{i + 9:012d}.jpg"
            pixels = rng.integers(0, 255, (80, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name)
            key = i + (1 if split == "train2014" else 1001)
            images.append({"id": key, "file_name": name, "height": 80, "width": 100})
            box = [10 + i, 10, 50, 40]
            objects.append(
                {"id": key, "image_id": key, "bbox": box, "area": 2000, "iscrowd": 0}
                | {"category_id": COCO_CATEGORIES[i][0], "segmentation": []}
            )
        categories = [{"id": number, "name": name} for number, name in COCO_CATEGORIES]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{split}.json").write_text(
            json.dumps({"images": images, "annotations": objects, "categories": categories})
        )
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder whose datasets/ has small sets at the paths of the configs."""
    folder = tmp_path_factory.mktemp("place")
    write_coco(folder / "datasets" / "coco", count=2)
    for year in ("VOC2007", "VOC2012"):
        small_voc(folder / "datasets" / "VOCdevkit", year=year, count=4)
    small_det(folder / "datasets")
    return folder


def step(name: str, *more: str) -> None:
    """Train `name` for a step in runs/ of the working folder."""
    run = Path("runs") / name
    small = next(values for key, values in SMALL.items() if key in name)
    scratch = [] if any(key.startswith("model.weights") for key in more) else SCRATCH
    norm = "gn" if "c4" in name else "none"
    validates = name in VALIDATED
    data = [] if validates else ["data.val=null"]
    overrides = [*RUN, *small, *scratch, f"model.backbone.norm={norm}", *data, *more]
    resdet.train(CONFIGS / f"{name}.yaml", overrides, run_dir=run, device="cpu")
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1 and first["loss"] > 0
    assert (run / "eval.json").is_file() == validates


NAMES = sorted(
    path.stem
    for start in ("voc", "coco2014_", "imagenet_det_")
    for path in CONFIGS.glob(f"{start}*")
)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("_coco")])
def test_it_takes_a_step(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    step(name)


def test_voc_is_fine_tuned_from_coco(
    place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The runs of T9 and T10 one after the other, at the paths that the configs name."""
    monkeypatch.chdir(place)
    coco = "coco2014_faster_rcnn_r101_c4_context_trainval"
    if not Path("runs", coco).exists():
        step(coco)
    for name in ("voc07_faster_rcnn_r101_c4_coco", "voc12_faster_rcnn_r101_c4_coco"):
        weights = load_config(CONFIGS / f"{name}.yaml").model.weights
        assert weights == f"runs/{coco}"
        caplog.clear()
        step(name, f"model.weights={weights}")
        assert "80 classes there, 20 here; 20 matched: aeroplane from airplane" in caplog.text
