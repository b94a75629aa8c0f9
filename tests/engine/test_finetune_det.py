"""Fine-tuning detectors by one override, on data whose classes are others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import resdet
from resdet.commands.convert import convert
from resdet.config import load_config
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.factory import build_model
from resdet.files import checkpoint
from resdet.interop.coco_classes import COCO_CATEGORIES

QUICK = ["train.max_steps=2", "train.batch_size=2", "train.precision=fp32", "train.threads=1"]
QUICK += ["data.workers=0", "log.tensorboard=false", "log.every=1", "eval.batch_size=2"]
QUICK += ["data.augment.resize.short_edges=[64]", "data.augment.resize.max_size=96"]
QUICK += ["data.test_resize.short_edge=64", "data.test_resize.max_size=96"]


def write_coco_detector(path: Path, *, backbone: str, small: bool, norm: str = "bn") -> Path:
    """A seeded Mask R-CNN of COCO's 80 classes, by conventions that are not the defaults."""
    sizes = {"fpn": {"out_channels": 16}, "rpn": {"anchor_sizes": [8, 16, 32, 64, 128]}}
    heads = {"box_head": {"fc_dim": 32}, "mask_head": {"num_convs": 1, "conv_dim": 8}}
    model = {
        "backbone": {"name": backbone, "norm": norm, "freeze_at": 2},
        "channel_order": "bgr",
        "pixel_mean": [103.53, 116.28, 123.675],
        "pixel_std": [57.0, 57.0, 57.0],
        "roi": heads if small else {"mask_head": {}},
        **(sizes if small else {}),
    }
    config = config_from_dict({"model": model, "train": {"epochs": 1}}, "the test")
    torch.manual_seed(0)
    names = [name for _, name in COCO_CATEGORIES]
    ids = [number for number, _ in COCO_CATEGORIES]
    built = build_model(config, class_names=names, category_ids=ids)
    last = "bn3.weight" if backbone == "resnet50" else "bn2.weight"
    for key, value in built.state_dict().items():
        # with frozen norms on random weights the sums would grow from block to block
        if key.endswith(last):
            value.fill_(0.2)
    checkpoint.save(
        path,
        {
            "format": 1,
            "kind": "detector",
            "config": config_to_dict(config),
            "class_names": names,
            "category_ids": ids,
            "step": 0,
            "model": built.state_dict(),
        },
    )
    return path


def few_smears(shared_data: Path, folder: Path, count: int) -> list[str]:
    """Overrides for the first images of BCCD."""
    source = shared_data / "bccd"
    for name in ("train", "val"):
        found = json.loads((source / "annotations" / f"{name}.json").read_text())
        images = found["images"][:count]
        kept = {image["id"] for image in images}
        boxes = [each for each in found["annotations"] if each["image_id"] in kept]
        part = {**found, "images": images, "annotations": boxes}
        (folder / f"{name}.json").write_text(json.dumps(part))
    images = [f"data.{name}.images={source / 'images'}" for name in ("train", "val")]
    return images + [f"data.{name}.annotations={folder / name}.json" for name in ("train", "val")]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_bccd_from_80_classes_by_one_override(repo, shared_data, tmp_path, caplog):
    """A Mask R-CNN becomes a detector of cells; resuming by the same command goes on."""
    weights = write_coco_detector(tmp_path / "coco.pt", backbone="resnet18", small=True)
    data = few_smears(shared_data, tmp_path, 4)
    command = [f"model.weights={weights}", *data, *QUICK]
    config = repo / "configs" / "bccd_finetune.yaml"
    run = resdet.train(config, command, run_dir=tmp_path / "run", device="cpu")
    assert len(losses(run)) == 2
    assert "80 classes there, 3 here; none of the same name" in caplog.text
    assert "left out, the mask head: roi_heads.mask_head.convs.0.0.weight" in caplog.text
    # the run's own config names everything, and needs the weights no longer
    model = load_config(run / "config.yaml").model
    assert (model.backbone.name, model.fpn.out_channels) == ("resnet18", 16)
    assert (model.channel_order, model.pixel_std[0]) == ("bgr", 57)
    assert (model.roi.mask_head, model.roi.num_samples) == (None, 128)
    there, here = (checkpoint.load(path)["model"] for path in (weights, run / "last.pt"))
    assert here["roi_heads.stages.0.cls_score.weight"].shape == (4, 32)
    key = "backbone.layer1.0.conv1.weight"
    assert torch.equal(here[key], there[key]), "frozen, as in the weights' config"
    resdet.train(config, command, run_dir=run, resume=True, device="cpu")
    weights.unlink()
    assert resdet.load(run, device="cpu").class_names == ["RBC", "WBC", "Platelets"]


def test_any_data_in_coco_format(repo, tiny, nuclei, tmp_path, caplog):
    """finetune_det.yaml: masks are kept, and the map says what a class starts from."""
    weights = write_coco_detector(tmp_path / "coco.pt", backbone="resnet18", small=True)
    folder = tiny.config.parent
    name = json.loads((folder / "train.json").read_text())["categories"][0]["name"]
    command = [f"model.weights={weights}", f"model.class_map={{{name}: orange}}", *QUICK]
    for split in ("train", "val"):
        command.append(f"data.{split}.images={nuclei / 'images'}")
        command.append(f"data.{split}.annotations={folder / split}.json")
    command += ["optim.lr=1e-12", "data.mask_size=28"]
    config = repo / "configs" / "finetune_det.yaml"
    run = resdet.train(config, command, run_dir=tmp_path / "run", device="cpu")
    assert f"80 classes there, 1 here; 1 matched: {name} from orange" in caplog.text
    orange = [each for _, each in COCO_CATEGORIES].index("orange")
    there, here = (checkpoint.load(path)["model"] for path in (weights, run / "last.pt"))
    for key in ("roi_heads.stages.0.cls_score.weight", "roi_heads.mask_head.predictor.weight"):
        torch.testing.assert_close(here[key][0], there[key][orange], atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_bccd_from_a_file_of_detectron2s(repo, shared_data, tmp_path, caplog):
    """A whole Mask R-CNN R50-FPN of 80 classes in Detectron2's layout takes a step on BCCD."""
    weights = write_coco_detector(
        tmp_path / "coco.pt", backbone="resnet50", small=False, norm="frozen_bn"
    )
    convert(str(weights), tmp_path / "model_final.pkl")
    weights.unlink()
    data = few_smears(shared_data, tmp_path, 2)
    command = [f"model.weights={tmp_path / 'model_final.pkl'}", *data, *QUICK, "train.max_steps=1"]
    config = repo / "configs" / "bccd_finetune.yaml"
    run = resdet.train(config, command, run_dir=tmp_path / "run", device="cpu")
    assert len(losses(run)) == 1
    model = load_config(run / "config.yaml").model
    assert (model.backbone.name, model.channel_order) == ("resnet50", "bgr")
    assert "80 classes there, 3 here" in caplog.text
