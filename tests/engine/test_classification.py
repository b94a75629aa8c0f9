"""The thread from a classification config to accuracy, in one process."""

import json

import pytest
import torch

import resdet
from resdet.config import ClassificationConfig, load_config
from resdet.errors import UserError
from resdet.factory.network import resolve_config
from resdet.files import checkpoint
from tests.engine.cls_data import CIFAR_YAML, FOLDER_YAML, write_cifar10, write_folders
from tests.engine.conftest import assert_same_end, log_of, losses_of


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A config on CIFAR's layout."""
    folder = tmp_path_factory.mktemp("cifar")
    config = folder / "tiny_cifar.yaml"
    config.write_text(CIFAR_YAML.format(root=write_cifar10(folder / "data")))
    return config


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A config on class folders."""
    folder = tmp_path_factory.mktemp("folders")
    config = folder / "tiny_folders.yaml"
    config.write_text(FOLDER_YAML.format(root=write_folders(folder / "data")))
    return config


@pytest.fixture(scope="module")
def finished(cifar, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cifar"
    return resdet.train(cifar, ["log.tensorboard=true"], run_dir=folder, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def figures(finished, blank_figures):
    """The first run's are drawn, as for users."""


def test_the_folder_holds_what_was_promised(finished):
    names = {path.name for path in finished.iterdir()}
    assert names >= {"config.yaml", "log.jsonl", "tensorboard", "last.pt", "best.pt", "eval.json"}
    plots = {path.name for path in (finished / "plots").iterdir()}
    assert plots >= {"losses.png", "lr.png", "metrics.png", "train_batch1.jpg"}
    assert "val_predictions.jpg" in plots


def test_accuracy_is_in_percent_and_its_files_agree(finished):
    best = json.loads((finished / "eval.json").read_text())
    assert set(best) == {"top1_percent", "top5_percent", "num_images", "num_broken"}
    assert best["num_images"] == 20
    logged = [line["eval"] for line in log_of(finished) if "eval" in line]
    assert len(logged) == 2
    assert best in logged
    assert best["top1_percent"] == max(each["top1_percent"] for each in logged)


def test_losses_of_a_fixed_seed(finished):
    """Pinned: a refactor shows the same numbers."""
    losses = [values["loss"] for values in losses_of(finished).values()]
    assert losses == pytest.approx(PINNED, rel=1e-4)


PINNED = [2.6601138, 1.8906209, 1.8487780, 2.4861674, 1.3026049, 1.8977652]


def test_the_training_error_is_a_mean_over_steps(finished):
    errors = [line["error_percent"] for line in log_of(finished) if "loss" in line]
    # one batch of eight: whole eighths; then the mean over the steps so far
    assert errors[0] % 12.5 == 0
    assert (errors[1] * 2) % 12.5 == 0


def test_the_measured_mean_travels(finished):
    found = checkpoint.load(finished / "best.pt")
    assert found["kind"] == "classifier"
    assert found["category_ids"] == []
    assert found["model"]["pixel_mean"].shape == (3, 32, 32)
    model = resdet.load(finished, device="cpu")
    assert torch.equal(model.pixel_mean, found["model"]["pixel_mean"])


def test_a_resumed_run_is_the_same_to_the_last_bit(cifar, tmp_path):
    overrides = ["train.ema_decay=0.9", "data.augment.mixup=0.2", "data.augment.cutmix=1"]
    overrides += ["data.augment.erase_prob=0.5", "data.augment.pca_std=0.1", "eval.every=4"]
    short, whole = tmp_path / "short", tmp_path / "whole"
    resdet.train(cifar, [*overrides, "train.max_steps=4"], run_dir=short, device="cpu")
    resdet.train(None, ["train.max_steps=6"], run_dir=short, resume=True, device="cpu")
    resdet.train(cifar, overrides, run_dir=whole, device="cpu")
    one, two = losses_of(short), losses_of(whole)
    assert one == two
    # the short run validated at its end, which the whole one did at the same step
    assert_same_end(short, whole)


def test_the_low_rate_ends_when_the_error_falls(cifar, tmp_path, monkeypatch):
    monkeypatch.setattr("resdet.engine.train.ERROR_STEPS", 2)
    # a seed of which the first two steps have something right by chance
    overrides = ["train.seed=1", "optim.warmup_until_error_percent=99.9", "optim.warmup_factor=0.1"]
    run = resdet.train(cifar, overrides, run_dir=tmp_path / "run", device="cpu")
    rates = [line["lr"] for line in log_of(run) if "loss" in line]
    assert rates == pytest.approx([0.005, 0.005, 0.05, 0.05, 0.05, 0.05])


def test_a_plateau_drops_the_rate(cifar, tmp_path):
    # A rate of nearly nothing: no validation after the first is better, with a seed where batch
    # norm's statistics, which settle meanwhile, bring nothing.
    overrides = ["optim.schedule=plateau", "optim.patience=1", "optim.lr=1e-12", "eval.every=2"]
    overrides.append("train.seed=1")
    run = resdet.train(cifar, overrides, run_dir=tmp_path / "run", device="cpu")
    rates = [line["lr"] for line in log_of(run) if "loss" in line]
    assert rates == pytest.approx([1e-12] * 4 + [1e-13] * 2)
    assert checkpoint.load(run / "last.pt")["adapted"]["drops"] == 2


def test_statistics_are_computed_anew_at_the_end(cifar, tmp_path):
    runs = [
        resdet.train(cifar, [f"train.precise_bn_images={n}"], run_dir=tmp_path / str(n))
        for n in (0, 80)
    ]
    plain, settled = (checkpoint.load(run / "last.pt")["model"] for run in runs)
    name = "backbone.bn1.running_mean"
    assert torch.equal(plain["backbone.conv1.weight"], settled["backbone.conv1.weight"])
    assert not torch.equal(plain[name], settled[name])


def test_a_teacher_pulls(cifar, finished, tmp_path):
    overrides = [f"loss.teacher={finished}", "loss.teacher_weight=0.5"]
    run = resdet.train(cifar, overrides, run_dir=tmp_path / "run", device="cpu")
    line = log_of(run)[0]
    assert line["loss"] == pytest.approx(line["loss_cls"] + line["loss_teacher"])


def test_class_folders_train(folders, tmp_path):
    run = resdet.train(folders, run_dir=tmp_path / "run", device="cpu")
    model = resdet.load(run, device="cpu")
    assert model.class_names == ["blue", "green", "red"]
    assert json.loads((run / "eval.json").read_text())["num_images"] == 18


def test_a_recipe_with_everything(folders, tmp_path):
    overrides = ["loss.name=bce", "loss.label_smoothing=0.1", "data.repeated_augmentation=2"]
    overrides += ["data.augment.policy=rand", "data.augment.mixup=0.2", "optim.name=lamb"]
    overrides += ["model.backbone.stochastic_depth=0.1", "data.augment.color_jitter=0.3"]
    overrides += ["train.accumulate=2", "optim.clip_norm=1", "optim.schedule=cosine"]
    run = resdet.train(folders, overrides, run_dir=tmp_path / "run", device="cpu")
    assert len([line for line in log_of(run) if "loss" in line]) == 3


def test_the_side_grows_with_the_epochs(folders, tmp_path, monkeypatch):
    sides = []
    from resdet.models.classifier import Classifier

    forward = Classifier.forward

    def spy(self, images):
        if self.training:
            sides.append(images.shape[-1])
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", spy)
    # five steps an epoch
    overrides = ["data.progressive=[[0, 32], [1, 64]]", "train.max_steps=7"]
    resdet.train(folders, overrides, run_dir=tmp_path / "run", device="cpu")
    assert sides == [32] * 5 + [64] * 2


def test_a_broken_image_is_named_and_left_out(folders, tmp_path, caplog):
    config = load_config(folders, schema=ClassificationConfig)
    from pathlib import Path
    from shutil import copytree

    data = copytree(Path(config.data.train.root).parent, tmp_path / "data")
    whole = (data / "train/red/0.png").read_bytes()
    # the header is sound, so that the look at the start does not find it
    (data / "train/red/0.png").write_bytes(whole[: len(whole) // 2])
    overrides = [f"data.train.root={data}/train", "train.max_steps=5"]
    run = resdet.train(folders, overrides, run_dir=tmp_path / "run", device="cpu")
    broken = [line["num_broken"] for line in log_of(run) if "num_broken" in line]
    assert set(broken) == {1}
    assert "1 of 18 so far: " in caplog.text and "red/0.png: damaged" in caplog.text


def test_other_classes_keep_all_but_the_last_layer(folders, finished, tmp_path, capsys):
    """Fine-tuning by two roots: the network is that of the weights."""
    overrides = ["model.backbone.name=null", f"model.weights={finished}", "train.max_steps=1"]
    overrides += ["optim.lr=1e-12"]
    run = resdet.train(folders, overrides, run_dir=tmp_path / "run", device="cpu")
    there = checkpoint.load(finished / "best.pt")["model"]
    here = checkpoint.load(run / "last.pt")["model"]
    assert here["head.fc.weight"].shape == (3, 64)
    key = "backbone.layer3.0.conv2.weight"
    torch.testing.assert_close(here[key], there[key])
    config = load_config(run / "config.yaml", schema=ClassificationConfig)
    assert config.model.backbone.name == "cifar_resnet"
    assert config.model.backbone.options == {"depth": 8}
    # the same command goes on with the run
    resdet.train(folders, overrides, run_dir=run, resume=True, device="cpu")


def test_what_is_asked_for_comes_on_top_of_the_network_of_the_weights(folders, finished):
    overrides = ["model.backbone.name=null", f"model.weights={finished}", "model.dropout=0.5"]
    overrides += ["model.backbone.freeze_at=2", "model.backbone.stochastic_depth=0.1"]
    config = load_config(folders, overrides, schema=ClassificationConfig)
    section = resolve_config(config).config.model
    assert section.dropout == 0.5
    assert (section.backbone.freeze_at, section.backbone.stochastic_depth) == (2, 0.1)
    assert section.backbone.options == {"depth": 8}
    assert section.pixel_std == [64, 64, 64]


def test_no_network_at_all_is_named(folders, tmp_path):
    with pytest.raises(UserError, match=r"null takes the network of model.weights"):
        resdet.train(folders, ["model.backbone.name=null"], run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.augment.policy=trivial", "data.augment.policy: trivial, and CIFAR's images"),
        ("data.augment.crop=random_resized", "take pad or none"),
        ("data.size=64", r"data.size: 64"),
        ("model.num_classes=7", "model.num_classes: 7, but the data has 10"),
        ("data.root=null", "data.train.root: no folder is given"),
        ("loss.teacher=absent", "absent: no such file"),
        ("data.test_resize=256", "data.test_resize: 256, and CIFAR's images"),
        ("model.backbone.freeze_at=2", "with random weights diverges at once"),
    ],
)
def test_what_does_not_fit_is_named(cifar, tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        resdet.train(cifar, [override], run_dir=tmp_path / "run", device="cpu")


def test_the_other_task_is_named(cifar, finished, tiny, tmp_path):
    from resdet.config import DetectionConfig

    with pytest.raises(
        UserError, match=r"this config is for classification; run it with python tools/train_cls"
    ):
        resdet.train(cifar, schema=DetectionConfig, run_dir=tmp_path / "run")
    with pytest.raises(UserError, match=r"a run of classification; resume it with python tools"):
        resdet.train(None, schema=DetectionConfig, run_dir=finished, resume=True)


def test_check_trains_nothing(cifar, tmp_path):
    out = resdet.train(cifar, run_dir=tmp_path / "run", check=True, device="cpu")
    assert (out / "train_batch.jpg").is_file()
    assert not (tmp_path / "run").exists()


def test_a_detector_takes_the_backbone(folders, tiny, tmp_path, caplog):
    run = resdet.train(folders, ["model.backbone.norm=gn"], run_dir=tmp_path / "cls", device="cpu")
    overrides = [f"model.backbone.weights={run}", "train.max_steps=1", "optim.lr=1e-12"]
    detector = resdet.train(tiny.config, overrides, run_dir=tmp_path / "det", device="cpu")
    there = checkpoint.load(run / "best.pt")["model"]
    here = checkpoint.load(detector / "last.pt")["model"]
    for key in (key for key in there if key.startswith("backbone.")):
        torch.testing.assert_close(here[key], there[key], atol=1e-6, rtol=1e-6)
    assert "left out, the classifier: head.fc.weight, head.fc.bias" in caplog.text


def test_another_backbone_is_named_with_its_keys(folders, tiny, tmp_path):
    run = resdet.train(folders, ["train.max_steps=1"], run_dir=tmp_path / "cls", device="cpu")
    overrides = [f"model.backbone.weights={run}", "model.backbone.name=resnet50"]
    words = r"holds resnet18, and model\.backbone\.name is resnet50; .*layer1\.0\.conv3\.weight"
    with pytest.raises(UserError, match=words):
        resdet.train(tiny.config, [*overrides, "model.backbone.norm=bn"], run_dir=tmp_path / "det")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.holdout=4", "data.holdout: only CIFAR has it"),
        ("data.download=true", "data.download: only CIFAR has it.*set data.format=cifar10"),
        ("model.backbone.options={norm: gn}", "norm is given in model.backbone.norm as well"),
        ("train.precise_bn_images=1", "micro-batches of one image have no statistics"),
    ],
)
def test_what_folders_do_not_have_is_named(folders, tmp_path, override, message):
    overrides = ["model.backbone.norm=bn", "train.batch_size=1", "train.max_steps=1", override]
    overrides += ["data.size=64"]
    with pytest.raises(UserError, match=message):
        resdet.train(folders, overrides, run_dir=tmp_path / "run", device="cpu")


def test_a_crop_of_none_is_that_of_the_test(folders, tmp_path):
    from resdet.factory import build_classification_train_data, build_classification_val_data

    overrides = ["data.augment.crop=none", "data.augment.flip_prob=0"]
    config = load_config(folders, overrides, schema=ClassificationConfig)
    root = config.data.train.root
    config = load_config(
        folders, [*overrides, f"data.val.root={root}"], schema=ClassificationConfig
    )
    train = build_classification_train_data(config)
    val = build_classification_val_data(config, classes=train.class_names)
    for index in (0, 9, 17):
        assert torch.equal(train[0, index].image, val[0, index].image)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_class_folders_train_on_a_gpu(folders, tmp_path):
    run = resdet.train(folders, run_dir=tmp_path / "run", device="cuda")
    assert json.loads((run / "eval.json").read_text())["num_images"] == 18


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", ["false", "true"])
def test_a_gpu_has_the_losses_of_the_cpu(cifar, finished, how, tmp_path):
    compiled = [f"train.compile={how}"]
    run = resdet.train(cifar, compiled, run_dir=tmp_path / "run", device="cuda")
    one, two = ([v["loss"] for v in losses_of(r).values()] for r in (finished, run))
    assert one == pytest.approx(two, rel=1e-3)
