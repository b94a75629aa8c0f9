"""Every shipped YAML: it loads, says its command and its aim, and a model can be built from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import resdet
from resdet.config import load_config
from resdet.config.classification import ClassificationConfig

ALL = sorted((Path(__file__).resolve().parent.parent / "configs").glob("*.yaml"))
LOCALIZERS = [path for path in ALL if "_loc_" in path.stem]
CLASSIFIERS = [
    path
    for path in ALL
    if path.stem.startswith(("imagenet_", "cifar10_", "finetune"))
    and not path.stem.startswith(("imagenet_loc_", "imagenet_det_", "finetune_det"))
]
PAPER = [path for path in ALL if path.stem.startswith(("voc", "coco2014_", "imagenet_det_"))]
IMAGENET = [path for path in CLASSIFIERS if path.stem.startswith("imagenet_")]
CONFIGS = [path for path in ALL if path not in CLASSIFIERS + LOCALIZERS]
DEPTHS = (18, 34, 50, 101, 152)
RECIPES = ("tv1", "tv2", "a1", "a2", "a3")


def test_none_is_missing():
    families = ("faster", "mask", "cascade_mask")
    expected = {f"coco_{family}_rcnn_r{depth}" for family in families for depth in DEPTHS}
    expected |= {f"coco_{family}_rcnn_r{depth}_1x" for family in families for depth in (50, 101)}
    expected |= {f"coco_mask_rcnn_r{depth}_lsj_100ep" for depth in (50, 101)}
    expected |= {"demo_nuclei", "bccd", "bccd_finetune", "finetune_det", "own_data"}
    expected |= {path.stem for path in PAPER}
    assert {path.stem for path in CONFIGS} == expected


def _comment(path: Path) -> list[str]:
    """The lines of comment that a file begins with."""
    comment = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return comment


def _load_classifier(path: Path) -> ClassificationConfig:
    return load_config(path, schema=ClassificationConfig)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_each_begins_with_its_command_and_its_aim(path):
    comment = _comment(path)
    assert f"tools/train_det.py configs/{path.name}" in comment[0]
    aim = " ".join(comment[1:])
    assert re.match(r"Aims at(:| (mAP|box AP) \d\d\.\d)", aim)
    assert "no published number" in aim or re.search(
        r"\((Detectron2|mmdetection), \w+|\(He et al\. 2016, table \d+\)", aim
    )


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


@pytest.fixture
def no_network(monkeypatch):
    import torch

    def refuse(*args, **options):
        raise AssertionError("building a model must not download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if path not in PAPER], ids=lambda path: path.stem
)
def test_a_detector_is_built_without_data_or_download(path, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    import torch

    config = load_config(path)
    if config.model.backbone.name is None:
        return  # the network is that of the weights; tests/factory/test_network.py trains them
    is_coco = path.stem.startswith("coco_")
    # meta tensors have shapes and no memory: R152 is as quick as R18
    with torch.device("meta"):
        model = resdet.build(path, overrides=[] if is_coco else ["model.num_classes=3"])
    if is_coco:
        assert (len(model.class_names), model.category_ids[-1]) == (80, 90)
        assert (model.class_names[11], model.category_ids[11]) == ("stop sign", 13)
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"backbone", "fpn", "rpn", "roi_heads"}
    assert model.has_masks == (config.model.roi.mask_head is not None)


def test_no_detector_of_the_paper_is_missing():
    """Tables 7 to 12 of He et al. 2016."""
    expected = {
        f"{data}_faster_rcnn_{network}"
        for data in ("voc07", "voc12", "coco2014")
        for network in ("vgg16", "r101_c4")
    }
    expected |= {f"voc{year}_faster_rcnn_r101_c4_coco" for year in ("07", "12")}
    expected |= {f"coco2014_faster_rcnn_r101_c4_context{data}" for data in ("", "_trainval")}
    assert {path.stem for path in PAPER} == expected | {"imagenet_det_faster_rcnn_r101_c4"}


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_detector_of_the_paper_is_as_the_paper_says(path, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    import torch

    config = load_config(path)
    model, roi, data = config.model, config.model.roi, config.data
    assert (data.test_resize.short_edge, data.test_resize.max_size) == (600, 1000)
    assert (model.nms_thresh, model.rpn.post_nms_topk_test, model.rpn.min_size) == (0.3, 300, 16)
    assert (model.fpn, roi.mask_head, roi.pooling) == (None, None, "pool")
    assert "test" not in config.model_dump(exclude_unset=True), "switches are for the command"
    is_voc = path.stem.startswith("voc") and not path.stem.endswith("_coco")
    assert model.rpn.anchor_sizes == [[128, 256, 512] if is_voc else [64, 128, 256, 512]]
    assert roi.context == bool(re.search("context|_coco$|_det_", path.stem))
    metric = re.match("voc07|voc12|coco|imagenet_det", path.stem)[0]
    assert config.eval.metric == metric
    with torch.device("meta"):
        network = resdet.build(path)
    classes = {"voc07": 20, "voc12": 20, "coco": 80, "imagenet_det": 200}[metric]
    assert network.num_classes == classes
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"backbone", "rpn", "roi_heads"}
    head = network.roi_heads.box_heads[0]
    if "vgg16" in path.stem:
        assert (roi.box_head.type, roi.box_head.pool_size) == ("vgg", 7)
        assert head.cls_score.in_features == 4096
        assert network.fpn.strides == {"c4": 16}
    else:
        assert (roi.box_head.type, roi.box_head.pool_size) == ("res5", 14)
        assert head.cls_score.in_features == (4096 if roi.context else 2048)
        assert model.backbone.norm == "frozen_bn"
    if path.stem.startswith(("coco", "imagenet")):
        assert (config.train.batch_size, config.optim.lr) == (8, 0.001)
        assert (config.train.max_steps, config.optim.milestones) == (320000, [240000])


def test_no_localizer_is_missing():
    assert {path.stem for path in LOCALIZERS} == {
        *("bccd_loc_rpn", "bccd_loc_rcnn"),
        *("imagenet_loc_rpn_r101", "imagenet_loc_rpn_vgg16", "imagenet_loc_rcnn_r101"),
    }


@pytest.mark.parametrize("path", LOCALIZERS, ids=lambda path: path.stem)
def test_each_localizer_begins_with_its_command_and_its_aim(path):
    comment = _comment(path)
    assert f"tools/train_det.py configs/{path.name}" in comment[0]
    assert re.match(r"Aims at (a|an) |Aims at: no published number", " ".join(comment[1:]))


@pytest.mark.parametrize("path", LOCALIZERS, ids=lambda path: path.stem)
def test_a_localizer_is_built_without_data_or_download(path, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    import torch

    with torch.device("meta"):
        model = resdet.build(path, overrides=["model.num_classes=1000"])
    assert model.num_classes == 1000
    heads = {"cls_score", "bbox_pred"} if "rcnn" in path.stem else {"rpn"}
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone", *heads}


def test_no_classifier_is_missing():
    paper = "plain18 plain34 resnet18 resnet34a resnet34b resnet34c resnet50 resnet101 resnet152"
    expected = {f"imagenet_{name}" for name in [*paper.split(), "vgg16", "vgg19", "googlenet"]}
    expected |= {f"imagenet_resnet{depth}_{recipe}" for depth in DEPTHS for recipe in RECIPES}
    expected |= {
        f"cifar10_{family}{depth}"
        for family in ("plain", "resnet")
        for depth in (20, 32, 44, 56, 110)
    }
    expected |= {f"cifar10_resnet1202{kind}" for kind in ("", "_stochastic_depth", "_preact")}
    expected |= {"imagenet_resnet50_fast", "cifar10_highway19", "cifar10_highway32", "finetune"}
    assert {path.stem for path in CLASSIFIERS} == expected


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_each_classifier_begins_with_its_command_and_its_aim(path):
    comment = _comment(path)
    assert comment[0].startswith(f"python tools/train_cls.py configs/{path.name}")
    aim = " ".join(comment[1:])
    assert re.match(r"Aims at(:| top-1 \d\d\.\d)", aim)
    assert "no published number" in aim or re.search(r"\(\w[^)]*\d[^)]*\)", aim)


# Counts of the ImageNet networks (He et al. 2016, table 1; torchvision), in parameters.
PARAMETERS = {
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "resnet18": 11_515_688,
    "resnet34a": 21_623_848,
    "resnet34b": 21_797_672,
    "resnet34c": 22_716_840,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
}


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_a_classifier_is_built_without_data_or_download(path, no_network, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    import torch

    config = _load_classifier(path)
    if config.model.backbone.name is None:
        return  # the network is that of the weights
    with torch.device("meta"):
        model = resdet.build(path)
    names = model.class_names
    assert (len(names), names[-1]) in {(1000, "n15075141"), (10, "truck")}
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbone", "head"}
    assert (model.test_resize, model.test_size) == (config.data.test_resize, config.data.test_size)
    name = path.stem.removeprefix("imagenet_")
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("path", IMAGENET, ids=lambda path: path.stem)
def test_the_name_of_an_imagenet_classifier_says_what_is_inside(path):
    config = _load_classifier(path)
    backbone, _, recipe = path.stem.removeprefix("imagenet_").partition("_")
    shortcut = {"a": "A", "b": "B", "c": "C"}.get(backbone[-1]) if backbone[-3:-1] == "34" else None
    assert config.model.backbone.name == (backbone[:-1] if shortcut else backbone)
    assert shortcut in (None, config.model.backbone.shortcut)
    assert config.model.weights is config.model.backbone.weights is None
    assert config.data.root == "datasets/imagenet"
    if recipe == "":
        # the paper's: T1 counts its bottlenecks with the stride in the first 1×1
        deep = backbone in ("resnet50", "resnet101", "resnet152")
        assert config.model.backbone.stride_in_1x1 is (True if deep else None)
        assert config.data.augment.crop == "scale_jitter"
        assert config.data.augment.pca_std == 0.1
        assert config.optim.schedule == "plateau"
        assert config.train.max_steps == (370_000 if "vgg" in backbone else 600_000)
        return
    # torchvision's and timm's have it in the 3×3
    assert config.model.backbone.stride_in_1x1 is None
    epochs = {"tv1": 90, "tv2": 600, "a1": 600, "a2": 300, "a3": 100, "fast": 80}
    assert config.train.epochs == epochs[recipe]


# Wightman et al. 2021, table 2: size, rate, decay, smoothing, depth, repeats, RandAugment, mixup.
STRIKES_BACK = {
    "a1": (224, 5e-3, 0.01, 0.1, 0.05, 3, 7, 0.2),
    "a2": (224, 5e-3, 0.02, 0.0, 0.05, 3, 7, 0.1),
    "a3": (160, 8e-3, 0.02, 0.0, None, 1, 6, 0.1),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("recipe", STRIKES_BACK)
def test_the_recipes_of_resnet_strikes_back(recipe, depth):
    config = _load_classifier(ALL[0].with_name(f"imagenet_resnet{depth}_{recipe}.yaml"))
    data, augment, optim = config.data, config.data.augment, config.optim
    assert STRIKES_BACK[recipe] == (
        data.size,
        optim.lr,
        optim.weight_decay,
        config.loss.label_smoothing,
        config.model.backbone.stochastic_depth,
        data.repeated_augmentation,
        augment.rand_magnitude,
        augment.mixup,
    )
    assert (augment.policy, augment.rand_ops, augment.rand_std) == ("rand", 2, 0.5)
    assert (augment.cutmix, augment.erase_prob, augment.color_jitter) == (1.0, 0.0, 0.0)
    assert (optim.name, optim.schedule, optim.warmup_epochs) == ("lamb", "cosine", 5)
    assert optim.reference_batch == config.train.batch_size == 2048
    assert optim.warmup_factor * optim.lr == pytest.approx(1e-4)
    assert (optim.norm_weight_decay, optim.bias_weight_decay) == (0.0, 0.0)
    assert (config.loss.name, data.test_size, data.test_resize) == ("bce", 224, 235)
    assert data.interpolation == "bicubic"


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_second_recipe_of_torchvision(depth):
    config = _load_classifier(ALL[0].with_name(f"imagenet_resnet{depth}_tv2.yaml"))
    data, augment, optim = config.data, config.data.augment, config.optim
    # ResNet-101 and 152 were trained without FixRes and repeated augmentation
    assert (data.size, data.repeated_augmentation) == ((224, 1) if depth > 50 else (176, 4))
    assert (data.test_resize, data.test_size) == (232, 224)
    assert (augment.policy, augment.erase_prob) == ("trivial", 0.1)
    assert augment.erase_fill == "zero"
    assert (augment.mixup, augment.cutmix, config.loss.label_smoothing) == (0.2, 1.0, 0.1)
    assert (optim.lr, optim.reference_batch, config.train.batch_size) == (0.5, 1024, 1024)
    assert (optim.weight_decay, optim.norm_weight_decay) == (2e-5, 0.0)
    assert (optim.bias_weight_decay, optim.warmup_factor) == (None, 0.01)
    scaled = (1 - 2e-5 * 1024 * 32 / 600) ** (1 / 32)
    assert config.train.ema_decay == pytest.approx(scaled, abs=1e-6)
