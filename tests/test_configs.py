"""Every shipped YAML: it loads, says its command and its aim, and a model can be built from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resdet.config import load_config

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))
DEPTHS = (18, 34, 50, 101, 152)


def test_none_is_missing():
    families = ("faster", "mask", "cascade_mask")
    expected = {f"coco_{family}_rcnn_r{depth}" for family in families for depth in DEPTHS}
    expected |= {f"coco_{family}_rcnn_r{depth}_1x" for family in families for depth in (50, 101)}
    expected |= {f"coco_mask_rcnn_r{depth}_lsj_100ep" for depth in (50, 101)}
    assert {path.stem for path in CONFIGS} == expected | {"demo_nuclei", "bccd"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_begins_with_its_command_and_its_aim(path):
    comment = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    assert f"tools/train_det.py configs/{path.name}" in comment[0]
    aim = " ".join(comment[1:])
    assert re.match(r"Aims at(:| box AP \d\d\.\d)", aim)
    assert "no published number" in aim or re.search(r"\((Detectron2|mmdetection), \w+", aim)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_name_says_what_is_inside(path):
    config = load_config(path)
    if not path.stem.startswith("coco_"):
        return
    family, depth = re.match(r"coco_(\w+)_rcnn_r(\d+)", path.stem).groups()
    assert config.model.backbone.name == f"resnet{depth}"
    assert (config.model.roi.mask_head is not None) == ("mask" in family)
    assert len(config.model.roi.stages) == (3 if "cascade" in family else 1)
    if path.stem.endswith("_lsj_100ep"):
        assert config.model.backbone.weights is None
        assert config.model.backbone.norm == config.model.roi.mask_head.norm == "sync_bn"
        assert config.train.max_steps == 184375
        return
    assert config.model.backbone.weights == f"torchvision:resnet{depth}.IMAGENET1K_V1"
    assert config.model.backbone.norm == "frozen_bn"
    assert config.train.max_steps == (90000 if path.stem.endswith("_1x") else 270000)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_model_is_built_without_a_download(path, monkeypatch):
    import torch

    from resdet.factory import build_model

    def refuse(*args, **options):
        raise AssertionError("building a model must not download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    config = load_config(path)
    # meta tensors have shapes and no memory: R152 is as quick as R18
    with torch.device("meta"):
        model = build_model(config, class_names=["a", "b", "c"], category_ids=[1, 2, 4])
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"backbone", "fpn", "rpn", "roi_heads"}
    assert model.has_masks == (config.model.roi.mask_head is not None)
