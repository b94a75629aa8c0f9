"""Weights from one layout to another on disk, and back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torchvision import models

import resdet
from resdet import cli
from resdet.commands.convert import choose_target, convert
from resdet.config.loading import config_from_dict, config_to_dict
from resdet.errors import UserError
from resdet.factory import build_classifier, build_model
from resdet.files import checkpoint
from resdet.interop.loaded import LoadedWeights
from resdet.interop.torchvision.classifiers import exported
from resdet.interop.weights import read_weights

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 120, 3), dtype=np.uint8)
RPN = {
    "pre_nms_topk_train": 50,
    "post_nms_topk_train": 40,
    "pre_nms_topk_test": 50,
    "post_nms_topk_test": 40,
}
SMALL: dict[str, Any] = {
    "model": {
        "backbone": {"name": "resnet18", "norm": "bn"},
        "fpn": {"out_channels": 8},
        "rpn": RPN,
        "roi": {"box_head": {"fc_dim": 16}, "mask_head": {"num_convs": 4, "conv_dim": 8}},
        "score_thresh": 0.0,
        "detections_per_image": 12,
    },
    "data": {"test_resize": {"short_edge": 96, "max_size": 120}},
    "train": {"epochs": 1},
}
NAMES = ["cat", "dog", "owl"]


def seeded(module: torch.nn.Module, seed: int = 0) -> None:
    """Values that differ everywhere, and statistics that are not the start values."""
    torch.manual_seed(seed)
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.8, 1.2)
        elif key.endswith("running_mean") or key.endswith("bias"):
            value.normal_(0, 0.05)


def write_detector(path: Path, values: dict[str, Any] = SMALL) -> Path:
    config = config_from_dict(values, "the test")
    torch.manual_seed(1)
    model = build_model(config, class_names=NAMES, category_ids=[2, 5, 9])
    seeded(model)
    return write(path, "detector", config, model.state_dict(), NAMES, [2, 5, 9])


def write(
    path: Path, kind: str, config: Any, state: dict[str, Tensor], names: list[str], ids: list[int]
) -> Path:
    values = {
        "format": 1,
        "kind": kind,
        "config": config_to_dict(config),
        "class_names": names,
        "category_ids": ids,
        "step": 3,
        "model": state,
        "optimizer": {"state": {}},
    }
    checkpoint.save(path, values)
    return path


def write_classifier(path: Path, backbone: str, **options: Any) -> Path:
    section = {"name": backbone, **options}
    values = {"task": "classification", "model": {"backbone": section}, "train": {"epochs": 1}}
    config = config_from_dict(values, "the test")
    torch.manual_seed(1)
    model = build_classifier(config, class_names=NAMES)
    seeded(model)
    return write(path, "classifier", config, model.state_dict(), NAMES, [])


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    a, b = (
        {k: v for k, v in each.items() if not k.endswith("num_batches_tracked")} for each in (a, b)
    )
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "best.pt")


def test_to_resdet_keeps_what_a_run_holds(detector: Path, tmp_path: Path) -> None:
    lines = convert(str(detector.parent), tmp_path / "out.pt")
    assert lines[0] == f"converted {detector} to {tmp_path / 'out.pt'}, a checkpoint of resdet"
    assert lines[1] == (
        "detector: resnet18 with norm bn, FPN of 8 channels, 1 box stage of 2 layers of 16, masks"
    )
    assert lines[2] == "classes: 3 (cat, dog, owl)"
    assert lines[4].startswith("conventions: channel_order rgb, pixel_mean [123.675, 116.28, 103.5")
    found = checkpoint.load(tmp_path / "out.pt")
    assert (found["class_names"], found["category_ids"]) == (NAMES, [2, 5, 9])
    assert "optimizer" not in found
    ours, theirs = (
        resdet.load(path, precision="fp32").predict(IMAGE)
        for path in (tmp_path / "out.pt", detector)
    )
    assert torch.equal(ours.boxes, theirs.boxes)
    assert len(ours.boxes) > 0
    # a converted checkpoint can be converted, and nothing is left beside it
    convert(str(tmp_path / "out.pt"), tmp_path / "again.pt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "out.pt"]


def test_averaged_weights_are_what_is_converted(detector: Path, tmp_path: Path) -> None:
    values = checkpoint.load(detector)
    key = "rpn.objectness.weight"
    values["ema"] = {key: torch.full_like(values["model"][key], 3)}
    checkpoint.save(tmp_path / "ema.pt", values)
    convert(str(tmp_path / "ema.pt"), tmp_path / "out.pt")
    assert (checkpoint.load(tmp_path / "out.pt")["model"][key] == 3).all()


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_detectron2_and_back(detector: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"model{suffix}"
    lines = convert(str(detector), out, target="detectron2")
    assert f"config: {out.with_suffix('.yaml')}" in lines
    assert lines[-1].startswith("not in Detectron2's files: the names of the classes")
    settings = yaml.safe_load(out.with_suffix(".yaml").read_text())
    assert settings["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == 3
    assert settings["INPUT"]["FORMAT"] == "RGB"
    if suffix == ".pkl":
        values = pickle.loads(out.read_bytes())
        assert (values["__author__"], values["matching_heuristics"]) == ("resdet", False)
        assert all(isinstance(value, np.ndarray) for value in values["model"].values())
    else:
        values = torch.load(out, weights_only=True)
    assert "backbone.bottom_up.stem.conv1.weight" in values["model"]
    back = tmp_path / "back.pt"
    convert(str(out), back, origin=f"detectron2:{out.with_suffix('.yaml')}")
    theirs, ours = checkpoint.load(detector), checkpoint.load(back)
    assert same(ours["model"], theirs["model"])
    for section in ("fpn", "rpn", "pixel_mean", "pixel_std", "channel_order"):
        assert ours["config"]["model"][section] == theirs["config"]["model"][section], section
    first, second = (
        resdet.load(path, precision="fp32").predict(IMAGE) for path in (detector, back)
    )
    assert torch.equal(first.boxes, second.boxes)
    assert torch.equal(first.masks, second.masks)


def test_torchvision_and_back(detector: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pth"
    lines = convert(str(detector), out, target="torchvision")
    assert "one for the background" in lines[-2]
    assert "roi.aligned true here, false there" in lines[-1]
    state = torch.load(out, weights_only=True)
    assert len(state["roi_heads.box_predictor.cls_score.weight"]) == 4
    convert(str(out), tmp_path / "back.pt", origin="torchvision")
    found = checkpoint.load(tmp_path / "back.pt")
    assert same(found["model"], checkpoint.load(detector)["model"])
    assert found["config"]["model"]["roi"]["aligned"] is False


@pytest.mark.parametrize(
    ("backbone", "options", "given"),
    [
        ("resnet18", {}, {}),
        ("googlenet", {"options": {"branch5_kernel": 3}}, {"init_weights": False}),
    ],
)
def test_a_classifier_of_torchvision(
    tmp_path: Path, backbone: str, options: dict[str, Any], given: dict[str, Any]
) -> None:
    """The same logits of the same input, by torchvision's own model."""
    path = write_classifier(tmp_path / "best.pt", backbone, **options)
    out = tmp_path / "model.pth"
    lines = convert(str(path), out, target="torchvision")
    assert lines[1].startswith(f"classifier: {backbone}")
    assert "made with the number of classes, and takes the conventions" in lines[-1]
    model = models.get_model(backbone, weights=None, num_classes=3, **given)
    model.load_state_dict(torch.load(out, weights_only=True))
    ours = resdet.load(path, device="cpu")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.eval()(image)
        torch.testing.assert_close(ours.head(ours.backbone(image)), expected, rtol=1e-4, atol=1e-5)
    back = tmp_path / "back.pt"
    convert(str(out), back, origin=f"torchvision:{backbone}")
    states = [checkpoint.load(each)["model"] for each in (path, back)]
    parts = [{k: v for k, v in each.items() if not k.startswith("pixel_")} for each in states]
    assert same(*parts)


@pytest.mark.parametrize("norm", [None, "bn"])
def test_a_vgg_of_torchvision(norm: str | None) -> None:
    """Its names and shapes; the tensors themselves would be 500 MB."""
    values = {
        "task": "classification",
        "model": {"backbone": {"name": "vgg16", "norm": norm}},
        "train": {"epochs": 1},
    }
    config = config_from_dict(values, "the test")
    with torch.device("meta"):
        state = build_classifier(config, class_names=NAMES).state_dict()
        model = models.get_model("vgg16_bn" if norm else "vgg16", weights=None, num_classes=3)
    weights = LoadedWeights(state, "classifier", config_to_dict(config), "the test", NAMES)
    found = {key: value.shape for key, value in exported(weights).items()}
    assert found == {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet50", {"stride_in_1x1": True}, "its strides in the first 1×1"),
        ("resnet18", {"norm": "gn"}, "is not the network that torchvision calls resnet18: it lack"),
        ("resnet34", {"shortcut": "C"}, "it has layer1.0.downsample.0.weight besides"),
        ("plain18", {}, "torchvision has no plain18; it has resnet18, resnet34"),
    ],
)
def test_classifiers_that_torchvision_lacks(
    tmp_path: Path, backbone: str, options: dict[str, Any], message: str
) -> None:
    path = write_classifier(tmp_path / "best.pt", backbone, **options)
    with pytest.raises(UserError, match=message):
        convert(str(path), tmp_path / "model.pth", target="torchvision")
    assert [each.name for each in tmp_path.iterdir()] == ["best.pt"]


def test_a_backbone_alone(tmp_path: Path) -> None:
    """It becomes what model.backbone.weights takes."""
    state = models.resnet18().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "r18.pth")
    lines = convert(str(tmp_path / "r18.pth"), tmp_path / "r18.pt")
    assert lines[-1] == "a backbone alone: give it to model.backbone.weights"
    weights = read_weights(str(tmp_path / "r18.pt"))
    assert weights.kind == "backbone"
    assert same(weights.state, {k: v for k, v in state.items() if not k.startswith("fc.")})
    with pytest.raises(UserError, match="holds a backbone, and Detectron2 only has detectors"):
        convert(str(tmp_path / "r18.pth"), tmp_path / "r18.pkl")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("x.pth", None, r"\.pth files may be torchvision or detectron2; choose one with --to"),
        ("x.pt", "torchvision", r"x\.pt: torchvision files end in \.pth; rename it"),
        ("x.pkl", "resdet", r"x\.pkl: resdet files end in \.pt"),
        ("x.pt", "detectron2", r"detectron2 files end in \.pth or \.pkl"),
        (
            "x.onnx",
            None,
            r"its extension selects the layout: \.pt \(resdet\), \.pth \(torchvision",
        ),
        ("x.pt", "timm", "--to timm: expected one of resdet, torchvision, detectron2"),
    ],
)
def test_endings_that_contradict(name: str, target: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_target(Path(name), target)


def test_endings_that_tell() -> None:
    assert choose_target(Path("x.pt"), None) == "resdet"
    assert choose_target(Path("x.pkl"), None) == "detectron2"
    assert choose_target(Path("x.pth"), "torchvision") == "torchvision"


def test_an_input_is_never_overwritten(detector: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("best.pt", "last.pt"):
        (run / name).write_bytes(detector.read_bytes())
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    (tmp_path / "link.pt").symlink_to(run / "best.pt")
    for spec, out in (
        (run / "best.pt", run / "best.pt"),
        (run, run / "last.pt"),
        (tmp_path / "link.pt", run / "best.pt"),
    ):
        with pytest.raises(UserError, match="OUT would overwrite IN"):
            convert(str(spec), out)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_config_of_the_users_is_not_overwritten(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("train: {epochs: 1}")
    with pytest.raises(UserError, match=r"the config of model\.pkl would be written here"):
        convert(str(detector), tmp_path / "model.pkl")
    assert (tmp_path / "model.yaml").read_text() == "train: {epochs: 1}"
    # its own is written anew
    (tmp_path / "model.yaml").unlink()
    for _ in range(2):
        convert(str(detector), tmp_path / "model.pkl")


def test_places_that_cannot_be_written(
    detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no such folder; make it first"):
        convert(str(detector), tmp_path / "absent" / "x.pt")
    (tmp_path / "x.pt").mkdir()
    with pytest.raises(UserError, match="is a folder; give a file"):
        convert(str(detector), tmp_path / "x.pt")
    out = tmp_path / "y.pt"
    out.write_bytes(b"before")

    def full(values: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"y\.pt: cannot be written: no space left on device; "):
        convert(str(detector), out)
    assert out.read_bytes() == b"before"
    assert not (tmp_path / "y.pt.tmp").exists()


def test_weights_that_no_checkpoint_can_be_made_of(tmp_path: Path, detector: Path) -> None:
    values = checkpoint.load(detector)
    torch.save({**values, "class_names": []}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds a detector without a config and class names"):
        convert(str(tmp_path / "w.pt"), tmp_path / "out.pt")
    with pytest.raises(UserError, match="no such file"):
        convert(str(tmp_path / "absent.pt"), tmp_path / "out.pt")


def test_the_command(detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.pkl"
    assert cli.main(["convert", str(detector), str(out)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"converted {detector} to {out}, a checkpoint of Detectron2"
    source = f"detectron2:{tmp_path / 'model.yaml'}"
    assert cli.main(["convert", str(out), str(tmp_path / "x.pt"), "--from", source]) == 0
    assert cli.main(["convert", str(detector), str(tmp_path / "x.pth")]) == 2
    assert "choose one with --to" in capsys.readouterr().err
