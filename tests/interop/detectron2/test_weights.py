"""Detectron2's detectors and backbones: names, configs, files, and back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import resdet
from resdet.backbones import build_backbone
from resdet.config.detection import DetectionConfig
from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory import build_model
from resdet.files.images import read_image
from resdet.files.pixels import resize_image
from resdet.interop import weights
from resdet.interop.detectron2 import weights as detectron2
from resdet.interop.detectron2 import zoo
from resdet.interop.detectron2.config import from_detectron2, to_detectron2
from resdet.interop.detectron2.names import from_caffe2, our_name, their_name
from resdet.interop.detectron2.settings import DEFAULTS, nested, read_yaml
from resdet.interop.fitting import load_backbone
from resdet.interop.loaded import LoadedWeights, Reading
from resdet.models.rcnn import RCNN
from tests.fixtures.recipe import Fixture, random_image

CASES = ["r18", "r50", "c4", "dc5", "cascade", "lsj"]


@pytest.fixture(scope="module")
def fixture() -> Fixture:
    return Fixture("detectron2_rcnn")


def state_of(fixture: Fixture, case: str) -> dict[str, Tensor]:
    """A detector's tensors by Detectron2's names, as the fixture was measured with."""
    state = fixture.state(case)
    for name, factor in fixture.facts(case)["scale"].items():
        state[name] = state[name] * np.float32(factor)
    return {name: torch.from_numpy(value) for name, value in state.items()}


def zoo_config(name: str) -> DetectionConfig:
    config = config_from_dict(from_detectron2(zoo.settings(name), name), name)
    assert isinstance(config, DetectionConfig)
    return config


def shapes_of(config: DetectionConfig, num_classes: int) -> dict[str, Tensor]:
    """The state of the config's detector, by resdet's names, without its numbers."""
    names = [f"class {number}" for number in range(num_classes)]
    with torch.device("meta"):
        model = build_model(config, class_names=names, category_ids=range(num_classes))
    return {
        key: value
        for key, value in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


@pytest.mark.parametrize("name", zoo.FILES)
def test_a_config_of_the_zoo_comes_back(name: str) -> None:
    settings = {**DEFAULTS, **zoo.settings(name)}
    # parts that the network does not have, and training sizes, which are no convention of it
    absent = ["INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"]
    absent += [] if settings["MODEL.MASK_ON"] else ["MODEL.ROI_MASK_HEAD"]
    absent += [] if "_FPN" in name else ["MODEL.FPN"]
    absent += [] if "cascade" in name else ["MODEL.ROI_BOX_CASCADE_HEAD"]
    settings = {k: v for k, v in settings.items() if not k.startswith(tuple(absent))}
    back = to_detectron2(zoo_config(name), settings["MODEL.ROI_HEADS.NUM_CLASSES"], name)
    assert {key: back.get(key) for key in settings} == settings
    # Detectron2 refuses a float where its default is a whole number, and the other way round
    for key, value in settings.items():
        assert type(back[key]) is type(value), key


@pytest.mark.parametrize("name", list(zoo.FILES)[::3])
def test_names_and_shapes_tell_the_network(name: str) -> None:
    """A file without a name is read as its config says, in all that tensors can tell."""
    settings = {**DEFAULTS, **zoo.settings(name)}
    config = zoo_config(name)
    state, _ = detectron2.exported(
        LoadedWeights(
            shapes_of(config, settings["MODEL.ROI_HEADS.NUM_CLASSES"]),
            "detector",
            config.model_dump(mode="json"),
            name,
            ["class"] * settings["MODEL.ROI_HEADS.NUM_CLASSES"],
        )
    )
    assert detectron2.recognises(state)
    told = detectron2.identified_settings(state, name)
    assert len(told) > 5
    # what tensors can't tell: losses, sampling and sizes
    hidden = ("BETA", "SAMPLING_RATIO", "POOLER_TYPE", "INPUT.", "STRIDE_IN_1X1", "STD", "FREEZE")
    for key, value in told.items():
        if any(part in key for part in hidden) or key.endswith("BOX_HEAD.NUM_FC"):
            continue
        if key == "MODEL.RESNETS.NORM" and "gn" not in name:
            continue
        assert settings[key] == value, key


@pytest.mark.parametrize("case", CASES)
def test_detections_from_files(fixture: Fixture, case: str, tmp_path: Path) -> None:
    """A pickle of arrays, beside the YAML that Detectron2 writes, is loaded and detects alike."""
    facts, state = fixture.facts(case), state_of(fixture, case)
    path = tmp_path / "model_final.pkl"
    arrays = {name: value.numpy() for name, value in state.items()}
    # what older files hold beside the weights
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4), np.float32)
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(nested(facts["options"])))
    model = resdet.load(path, source=f"detectron2:{settings}", device="cpu")
    assert isinstance(model, RCNN)
    loaded = {our_name(name): value for name, value in state.items()}
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, loaded.pop(name)), name
    assert not loaded
    assert model.channel_order == ("rgb" if "INPUT.FORMAT" in facts["options"] else "bgr")


def test_a_file_alone_finds_what_detectron2_finds(fixture: Fixture, tmp_path: Path) -> None:
    """The whole way: file, image, detections in pixels of the image."""
    facts = fixture.facts("r50")
    path = tmp_path / "model_final.pth"
    torch.save({"model": state_of(fixture, "r50")}, path)
    settings = tmp_path / "config.yaml"
    (height, width) = facts["image_sizes"][0]
    options = {**facts["options"], "INPUT.MIN_SIZE_TEST": height, "INPUT.MAX_SIZE_TEST": 200}
    settings.write_text(yaml.safe_dump(nested(options)))
    model = resdet.load(path, source=f"detectron2:{settings}", device="cpu")
    assert isinstance(model, RCNN)
    model.config = model.config.model_copy(
        update={"train": model.config.train.model_copy(update={"precision": "fp32"})}
    )
    found = model.predict(random_image(facts["seed"], height, width))
    # the fixture's detections are at another original size
    there = facts["original_sizes"][0]
    scale = torch.tensor([width / there[1], height / there[0]] * 2)
    theirs = torch.from_numpy(fixture["r50/test_boxes0"]) * scale
    assert isinstance(found, resdet.Detections)
    assert len(found) == len(theirs) > 5
    torch.testing.assert_close(found.boxes, theirs, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(found.scores, fixture["r50/test_scores0"], rtol=1e-4)
    np.testing.assert_array_equal(found.labels, fixture["r50/test_classes0"])


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_exact(fixture: Fixture, case: str, tmp_path: Path) -> None:
    facts, state = fixture.facts(case), state_of(fixture, case)
    settings = tmp_path / "config.yaml"
    settings.write_text(yaml.safe_dump(nested(facts["options"])))
    read = detectron2.imported(dict(state), str(settings), "the fixture")
    back, config = detectron2.exported(read)
    assert sorted(back) == sorted(state)
    assert all(torch.equal(back[name], state[name]) for name in state)
    written = tmp_path / "again.yaml"
    written.write_text(yaml.safe_dump(config))
    again = detectron2.imported(back, str(written), "the fixture")
    assert again.config is not None and read.config is not None
    assert again.config["model"] == read.config["model"]


def test_a_c4_detector_as_a_backbone(fixture: Fixture, tmp_path: Path) -> None:
    """Its last stage is taken from the head that keeps it."""
    state = state_of(fixture, "c4")
    settings = tmp_path / "c4.yaml"
    settings.write_text(yaml.safe_dump(nested(fixture.facts("c4")["options"])))
    torch.save({"model": state}, tmp_path / "c4.pth")
    backbone = build_backbone("resnet50", {"norm": "frozen_bn", "stride_in_1x1": True})
    load_backbone(backbone, str(tmp_path / "c4.pth"))
    weight = backbone.state_dict()["layer4.2.conv3.weight"]
    assert torch.equal(weight, state["roi_heads.res5.2.conv3.weight"])


def test_known_names_both_ways() -> None:
    pairs = {
        "backbone.bottom_up.stem.conv1.norm.weight": "backbone.bn1.weight",
        "backbone.bottom_up.res4.22.conv3.norm.bias": "backbone.layer3.22.bn3.bias",
        "backbone.bottom_up.res5.0.shortcut.weight": "backbone.layer4.0.downsample.0.weight",
        "backbone.fpn_output3.norm.running_var": "fpn.output.p3.1.running_var",
        "proposal_generator.rpn_head.conv.weight": "rpn.conv.0.0.weight",
        "roi_heads.box_head.fc2.weight": "roi_heads.stages.0.fcs.2.weight",
        "roi_heads.mask_head.mask_fcn4.bias": "roi_heads.mask_head.convs.3.0.bias",
        "roi_heads.res5.2.conv3.norm.weight": "roi_heads.res5.2.bn3.weight",
    }
    for theirs, ours in pairs.items():
        assert our_name(theirs) == ours
        assert their_name(ours, has_fpn=True, num_rpn_convs=1, num_stages=1) == theirs
    cascade = "roi_heads.box_predictor.2.bbox_pred.weight"
    assert our_name(cascade) == "roi_heads.stages.2.bbox_pred.weight"
    assert their_name(our_name(cascade), has_fpn=True, num_rpn_convs=1, num_stages=3) == cascade


def caffe2_blobs(*, norm: str, depth: int = 50) -> dict[str, np.ndarray]:
    """A ResNet as MSRA's and FAIR's files hold it: blobs of Caffe2, with a classifier."""
    backbone = build_backbone(f"resnet{depth}", {"norm": "frozen_bn"})
    parts = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}
    blobs: dict[str, np.ndarray] = {"fc1000_w": np.zeros((3, 4), np.float32)}
    for key, value in backbone.state_dict().items():
        if "running" in key:
            continue
        layer, _, kind = key.rpartition(".")
        end = {"weight": "s", "bias": "b"}[kind]
        if layer in ("conv1", "bn1"):
            name = "conv1_w" if layer == "conv1" else f"res_conv1_{norm}_{end}"
        else:
            stage, block, part = layer.split(".", 2)
            place = f"res{int(stage[-1]) + 1}_{block}_"
            if part.startswith("downsample"):
                name = place + ("branch1_w" if part.endswith("0") else f"branch1_{norm}_{end}")
            elif part.startswith("conv"):
                name = place + parts[part] + "_w"
            else:
                name = place + parts["conv" + part[-1]] + f"_{norm}_{end}"
        blobs[name] = value.numpy()
    return blobs


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_imagenet_backbones(norm: str, tmp_path: Path) -> None:
    """Of MSRA's norms scale and shift alone are stored; FAIR's are group norms."""
    path = tmp_path / ("R-50.pkl" if norm == "bn" else "R-50-GN.pkl")
    blobs = caffe2_blobs(norm=norm)
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    read = weights.read_weights(str(path))
    assert read.kind == "backbone"
    with pytest.raises(UserError, match=r"R-50.*model\.backbone\.weights"):
        resdet.load(path)
    assert not any("fc" in key for key in read.state)
    backbone = build_backbone("resnet50", {"norm": "frozen_bn" if norm == "bn" else "gn"})
    load_backbone(backbone, str(path))
    weight = backbone.state_dict()["layer3.5.conv2.weight"]
    assert np.array_equal(weight.numpy(), blobs["res4_5_branch2b_w"])
    shift = backbone.state_dict()["bn1.bias"]
    assert np.array_equal(shift.numpy(), blobs[f"res_conv1_{norm}_b"])
    other = Reading(stride_in_1x1=norm != "bn", channel_order="bgr")
    with pytest.raises(UserError, match="stride_in_1x1"):
        load_backbone(backbone, str(path), other)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
@torch.no_grad()
def test_msra_backbones_give_detectron2s_features(
    depth: int, tmp_path: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its reader and network beside ours, on 20 images at a short side of 800 pixels."""
    pytest.importorskip("detectron2", reason="features are compared where it is installed")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    path = tmp_path / f"R-{depth}.pkl"
    torch.manual_seed(0)
    blobs = caffe2_blobs(norm="bn", depth=depth)
    for name, value in blobs.items():
        if "branch2c_bn_s" in name:
            # as in trained networks, so that responses do not grow from block to block
            value *= 0.3
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    theirs = torch.nn.Module()
    theirs.backbone = build_resnet_backbone(cfg, ShapeSpec(channels=3)).eval()
    DetectionCheckpointer(theirs).load(str(path))
    ours = build_backbone(f"resnet{depth}", {"norm": "frozen_bn", "stride_in_1x1": True}).eval()
    load_backbone(ours, str(path), Reading(stride_in_1x1=True, channel_order="bgr"))
    worst = 0.0
    for image in sorted((shared_data / "coco128_inst" / "images").iterdir())[:20]:
        pixels = resize_image(read_image(image), 800, 1333)
        bgr = torch.from_numpy(pixels[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
        bgr -= torch.tensor([103.53, 116.28, 123.675])[:, None, None]
        features = list(theirs.backbone(bgr).values())
        for there, here in zip(features, ours(bgr).values(), strict=True):
            assert 0.1 < there.std() < 1e6
            worst = max(worst, float((there - here).abs().max() / there.abs().max()))
    with capsys.disabled():
        print(f"\nR-{depth}: features differ by {worst:.2g} of the largest")
    assert worst <= 1e-5


def test_caffe2_names() -> None:
    assert from_caffe2("conv1_w") == "stem.conv1.weight"
    assert from_caffe2("res_conv1_bn_riv") == "stem.conv1.norm.running_var"
    assert from_caffe2("res3_0_branch1_bn_s") == "res3.0.shortcut.norm.weight"
    assert from_caffe2("conv1_gn_b") == "stem.conv1.norm.bias"
    assert from_caffe2("roi_heads.box_head.fc1.weight") == "roi_heads.box_head.fc1.weight"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_2x", "mask_rcnn_R_50_FPN_1x"),
        ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x", "did you mean"),
        ("zzz", "for example"),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        detectron2.check_name(name)
    assert detectron2.check_name("Cityscapes/mask_rcnn_R_50_FPN.yaml") in zoo.FILES


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, True, True, True]),
        ("MODEL.RESNETS.NUM_GROUPS", 32),
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.META_ARCHITECTURE", "RetinaNet"),
        ("MODEL.RPN.CONV_DIMS", [64]),
        ("MODEL.ROI_HEADS.NAME", "FancyHeads"),
        ("MODEL.ROI_HEADS.IN_FEATURES", ["p2"]),
        ("MODEL.FPN.NORM", "LN"),
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"),
    ],
)
def test_what_resdet_lacks_is_named(setting: str, value: Any) -> None:
    settings = {**zoo.settings("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x"), setting: value}
    with pytest.raises(UserError, match=r"config\.yaml.*" + setting.split(".")[-1]):
        from_detectron2(settings, "config.yaml")


def test_roi_pooling_is_one_of_the_poolers() -> None:
    """Its sampling ratio means nothing there."""
    name = "COCO-Detection/faster_rcnn_R_50_C4_1x"
    pooler = {
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIPool",
        "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    }
    config = config_from_dict(from_detectron2({**zoo.settings(name), **pooler}, "c.yaml"), "c.yaml")
    assert isinstance(config, DetectionConfig)
    assert (config.model.roi.pooling, config.model.roi.sampling_ratio) == ("pool", 0)
    assert to_detectron2(config, 80, name)["MODEL.ROI_BOX_HEAD.POOLER_TYPE"] == "ROIPool"


def test_yaml_bases_and_tuples(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("MODEL: {RESNETS: {DEPTH: 50, NORM: GN}}\n")
    config = tmp_path / "config.yaml"
    config.write_text(
        "_BASE_: base.yaml\nMODEL: {RESNETS: {DEPTH: 101}}\n"
        "INPUT:\n  MIN_SIZE_TRAIN: (640, 800)\nSOLVER:\n  STEPS: (30000,)\n"
    )
    assert read_yaml(config) == {
        "MODEL.RESNETS.DEPTH": 101,
        "MODEL.RESNETS.NORM": "GN",
        "INPUT.MIN_SIZE_TRAIN": [640, 800],
        "SOLVER.STEPS": [30000],
    }
    for text in ("- 1\n", "a: [", "_BASE_: none.yaml\n"):
        config.write_text(text)
        with pytest.raises(UserError, match="config of Detectron2"):
            read_yaml(config)


def test_a_config_beside_the_file(fixture: Fixture, tmp_path: Path) -> None:
    """Of its own name, or config.yaml in Detectron2's output folder; not a YAML of others."""
    state = state_of(fixture, "r18")
    source = str(tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text("model: {num_classes: 3}\n")
    read = detectron2.imported(dict(state), None, source)
    assert read.config is not None and read.config["model"]["channel_order"] == "bgr"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(nested(fixture.facts("r18")["options"])))
    read = detectron2.imported(dict(state), None, source)
    assert read.config is not None and read.config["model"]["channel_order"] == "rgb"
    (tmp_path / "model_final.yaml").write_text("INPUT: {FORMAT: BGR}\nMODEL: {MASK_ON: true}\n")
    with pytest.raises(UserError, match="holds resnet18, and its source or config is of resnet50"):
        resdet.load(save(state, source))


def save(state: dict[str, Tensor], path: str) -> str:
    torch.save({"model": state}, path)
    return path


def test_a_base_that_is_its_own_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("_BASE_: config.yaml\n")
    with pytest.raises(UserError, match="_BASE_"):
        read_yaml(config)


@pytest.mark.parametrize("key", ["rpn.round_anchors", "roi.context"])
def test_options_that_detectron2_lacks_are_named(key: str) -> None:
    config = zoo_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x")
    name, option = key.split(".")
    section = getattr(config.model, name).model_copy(update={option: True})
    other = config.model_copy(update={"model": config.model.model_copy(update={name: section})})
    with pytest.raises(UserError, match=rf"run: model\.{name}\.{option} is True"):
        to_detectron2(other, 80, "run")


def test_damaged_files_are_named(fixture: Fixture, tmp_path: Path) -> None:
    state = state_of(fixture, "r18")
    for gone, word in (
        ("roi_heads.box_predictor.cls_score.weight", "cls_score"),
        ("backbone.bottom_up.res4.1.conv1.weight", "res4"),
    ):
        rest = {key: value for key, value in state.items() if key != gone}
        path = tmp_path / "cut.pth"
        torch.save(rest, path)
        with pytest.raises(UserError, match=rf"cut\.pth.*{word}"):
            resdet.load(path)


def test_classes_of_the_zoo() -> None:
    names, ids = detectron2._classes(80, "COCO-Detection/faster_rcnn_R_50_C4_1x")
    assert (names[0], ids[0], names[-1], ids[-1]) == ("person", 1, "toothbrush", 90)
    assert detectron2._classes(20, "PascalVOC-Detection/x")[0][14] == "person"
    assert detectron2._classes(8, "Cityscapes/x")[1] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert detectron2._classes(2, "")[0] == ["class 1", "class 2"]
