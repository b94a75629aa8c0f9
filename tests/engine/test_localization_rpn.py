"""Per-class RPNs from YAML to predictions and proposals, on a small set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import resdet
from resdet.cli import main
from resdet.commands.propose import propose_command
from resdet.engine.localization_runs import evaluate_localization_run
from resdet.errors import UserError
from resdet.files import checkpoint
from resdet.files.findings import DataError
from resdet.files.proposals import ProposalFile
from tests.data.layouts import small_loc
from tests.engine.conftest import assert_same_end, log_of, losses_of
from tests.engine.loc_data import write_config, write_shapes
from tests.engine.test_distributed import torchrun

SMALL = {"test_resize": 48, "test_size": 48, "augment": {"short_edges": [48, 56]}}
STEPS = ["train.max_steps=3", "checkpoint.every=2", "train.ema_decay=0.9", "eval.every=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data d/ and rpn.yaml."""
    folder = tmp_path_factory.mktemp("rpn")
    write_shapes(folder / "d")
    rpn = {"conv_dim": 16, "anchor_sizes": [16, 32], "trained_classes": "all"}
    model = {"rpn": rpn, "backbone": {"name": "resnet18", "norm": "bn", "res5_dilation": 2}}
    write_config(folder / "rpn.yaml", folder / "d", "rpn", data=SMALL, model=model)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    return resdet.train(folder / "rpn.yaml", STEPS, run_dir=folder / "run", device="cpu")


def test_a_run_writes_what_every_run_writes(run: Path) -> None:
    losses = losses_of(run)
    assert list(losses) == [1, 2, 3]
    for line in losses.values():
        assert line["loss"] == pytest.approx(line["loss_rpn_cls"] + line["loss_rpn_box"])
    numbers = json.loads((run / "eval.json").read_text())
    assert 0 <= numbers["loc_error_percent"] <= 100
    # the true class is given
    assert numbers["cls_error_percent"] == 0
    assert checkpoint.load(run / "best.pt")["kind"] == "localizer"
    assert {path.name for path in (run / "plots").iterdir()} >= {
        *("train_batch1.jpg", "val_predictions.jpg")
    }


def test_it_resumes_bit_exactly(folder: Path, run: Path, tmp_path: Path) -> None:
    short = [*STEPS, "train.max_steps=2"]
    resdet.train(folder / "rpn.yaml", short, run_dir=tmp_path / "run", device="cpu")
    resdet.train(None, ["train.max_steps=3"], run_dir=tmp_path / "run", device="cpu", resume=True)
    assert losses_of(run) == losses_of(tmp_path / "run")
    first, second = (checkpoint.load(one / "last.pt") for one in (run, tmp_path / "run"))
    for part in ("model", "ema"):
        assert all(value.equal(second[part][name]) for name, value in first[part].items())


@pytest.mark.slow
def test_two_processes_do_what_one_does(repo: Path, folder: Path, tmp_path: Path) -> None:
    options = ["train.max_steps=2", "model.backbone.norm=gn", "train.precision=fp64"]
    done = torchrun(repo, folder / "rpn.yaml", tmp_path / "two", options)
    assert done.returncode == 0, done.stdout + done.stderr
    one = resdet.train(folder / "rpn.yaml", options, run_dir=tmp_path / "one", device="cpu")
    for step, line in losses_of(one).items():
        assert losses_of(tmp_path / "two")[step] == pytest.approx(line, rel=1e-9)
    metrics = [[line.get("eval") for line in log_of(each)] for each in (one, tmp_path / "two")]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(folder: Path, run: Path, tmp_path: Path) -> None:
    resdet.train(
        folder / "rpn.yaml", [*STEPS, "data.workers=2"], run_dir=tmp_path / "two", device="cpu"
    )
    assert_same_end(run, tmp_path / "two")


def test_it_loads_and_predicts(folder: Path, run: Path) -> None:
    model = resdet.load(run, device="cpu", precision="fp32")
    assert model.class_names == ["disc", "square"]
    answer = model.predict(folder / "d" / "images" / "1.png")
    assert sorted(answer.labels.tolist()) == [0, 1]
    assert answer.scores.tolist() == sorted(answer.scores.tolist(), reverse=True)
    assert answer.image_size == (48, 64)
    dense = resdet.load(run, device="cpu", test={"views": "dense", "num_guesses": 1})
    assert len(dense.predict(folder / "d" / "images" / "1.png")) == 1
    assert resdet.draw(folder / "d" / "images" / "1.png", answer).size == (64, 48)


def test_a_run_starts_from_a_classifier_or_another_localizer(
    folder: Path, run: Path, tmp_path: Path
) -> None:
    options = [f"model.weights={run}", "model.backbone.name=null", "train.max_steps=1"]
    again = resdet.train(folder / "rpn.yaml", options, run_dir=tmp_path / "a", device="cpu")
    assert losses_of(again)[1]["loss"] < losses_of(run)[1]["loss"]
    options = [f"model.backbone.weights={run}"]
    built = resdet.build(folder / "rpn.yaml", weights="config", overrides=options)
    stored = resdet.load(run, device="cpu").backbone.conv1.weight
    assert built.backbone.conv1.weight.equal(stored)
    text = json.loads((folder / "d" / "a.json").read_text())
    text["categories"][0]["name"] = "circle"
    (folder / "d" / "other.json").write_text(json.dumps(text))
    options = [f"model.weights={run}", "train.max_steps=1", "data.val=null"]
    options += [f"data.train.annotations={folder / 'd' / 'other.json'}"]
    other = resdet.train(folder / "rpn.yaml", options, run_dir=tmp_path / "c", device="cpu")
    assert checkpoint.load(other / "last.pt")["class_names"] == ["circle", "square"]


def test_proposals_are_those_of_the_true_class(folder: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.npz"
    options = ["test.views=dense", "test.num_proposals=7", "test.proposal_nms=1"]
    assert propose_command(run=run, out=out, overrides=options, device="cpu", batch_size=2) == 0
    file = ProposalFile(out)
    assert file.class_names == ["disc", "square"]
    assert np.asarray(file.image_ids).tolist() == [1, 2, 3, 4, 5, 6]
    for row, image_id in enumerate(range(1, 7)):
        boxes, scores, labels = file.image(row)
        assert labels.tolist() == [image_id % 2] * 7
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        assert boxes.shape == (7, 4)
    for name in ("train", "val"):
        propose_command(run=run, out=tmp_path / "q.npz", name=name, device="cpu")
    with pytest.raises(UserError, match=r"data.val is null; give data.val.images=DIR"):
        propose_command(run=run, out=out, name="val", overrides=["data.val=null"], device="cpu")


def test_the_command_that_proposes(run: Path, tmp_path: Path, capsys) -> None:
    argv = ["predict", str(run), "--proposals", str(tmp_path / "p.npz"), "--device", "cpu"]
    assert main([*argv, "--set", "val", "test.num_proposals=3"]) == 0
    assert len(ProposalFile(tmp_path / "p.npz").boxes) == 18
    for extra in (["photo.jpg"], ["--out", "x"], ["--score-thresh", "0"]):
        with pytest.raises(SystemExit):
            main([*argv, *extra])
        assert "--proposals and" in capsys.readouterr().err
    for wrong in (["predict", str(run), "--set", "val"], ["predict", str(run), "photo.jpg"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert main(["predict", str(run / "none.pt"), "--proposals", "p.npz"]) == 2


def test_part_of_the_training_data_is_held_out(folder: Path, tmp_path: Path) -> None:
    options = ["train.max_steps=1", "data.val=null", "data.split={val: 0.34}"]
    run = resdet.train(folder / "rpn.yaml", options, run_dir=tmp_path / "run", device="cpu")
    split = json.loads((run / "split.json").read_text())
    assert (len(split["train"]), len(split["val"])) == (4, 2)
    _, validation = evaluate_localization_run([run], device="cpu")
    assert validation.result.summary["num_images"] == 2
    for name in ("train", "val"):
        propose_command(run=run, out=tmp_path / "p.npz", name=name, device="cpu")
        assert np.asarray(ProposalFile(tmp_path / "p.npz").image_ids).tolist() == split[name]


def test_dense_testing_of_a_run(run: Path) -> None:
    _, crop = evaluate_localization_run([run], device="cpu")
    options = ["test.views=dense", "test.scales=[48,64]", "test.flip=true", "test.merge=vote"]
    _, dense = evaluate_localization_run([run], options, device="cpu")
    for validation in (crop, dense):
        assert validation.result.summary["num_images"] == 6


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("imagenet_loc_rpn_r101", "resnet18"),
        pytest.param("imagenet_loc_rpn_r101", "resnet101", marks=pytest.mark.slow),
        pytest.param("imagenet_loc_rpn_vgg16", "vgg16", marks=pytest.mark.slow),
    ],
)
def test_the_configs_of_the_paper_take_a_step(repo: Path, tmp_path: Path, name, backbone) -> None:
    root = small_loc(tmp_path, per_class=1)
    options = [f"model.backbone.name={backbone}", "model.backbone.weights=null"]
    options += ["data.workers=0", "data.size=64", "data.test_size=64", "data.test_resize=64"]
    options += ["data.augment.short_edges=[64,80]", "train.batch_size=2", "train.max_steps=1"]
    for part in ("train", "val"):
        options.append(f"data.{part}.images={root}/Data/CLS-LOC/{part}")
        options.append(f"data.{part}.annotations={root}/Annotations/CLS-LOC/{part}")
    config = repo / "configs" / f"{name}.yaml"
    run = resdet.train(config, options, run_dir=tmp_path / "run", device="cpu")
    assert losses_of(run)[1]["loss"] > 0
    assert json.loads((run / "eval.json").read_text())["num_images"] == 3
    # labels agree with those of a classifier: sorted wnids
    names = checkpoint.load(run / "last.pt")["class_names"]
    assert names == sorted(names) and names[0].startswith("n0")


def test_images_of_several_classes_are_named(folder: Path, tmp_path: Path) -> None:
    text = json.loads((folder / "d" / "a.json").read_text())
    text["annotations"].append({**text["annotations"][0], "id": 99, "category_id": 1})
    (tmp_path / "two.json").write_text(json.dumps(text))
    with pytest.raises(
        DataError, match=r"two.json: image 1 \(1.png\): objects of several classes in one image"
    ):
        resdet.train(
            folder / "rpn.yaml",
            [f"data.train.annotations={tmp_path / 'two.json'}"],
            run_dir=tmp_path / "run",
            device="cpu",
        )


def test_a_metric_of_detectors_is_refused_at_the_start(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eval.metric: 'coco' is for detectors.* set imagenet_loc"):
        resdet.train(
            folder / "rpn.yaml", ["eval.metric=coco"], run_dir=tmp_path / "run", device="cpu"
        )
