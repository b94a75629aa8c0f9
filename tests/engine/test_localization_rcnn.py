"""The R-CNN of localization from proposals to a localization error, on a small set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import resdet
from resdet.config.loading import ConfigError, load_config
from resdet.config.localization import LocalizationConfig
from resdet.engine.localization_runs import evaluate_localization_run
from resdet.errors import UserError
from tests.engine.loc_data import write_config, write_proposals, write_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data d/, proposals p.npz, rcnn.yaml and rpn.yaml."""
    folder = tmp_path_factory.mktemp("rcnn")
    write_proposals(folder / "p.npz", write_shapes(folder / "d"))
    proposals = {"train": str(folder / "p.npz")}
    write_config(folder / "rcnn.yaml", folder / "d", "rcnn", data={"proposals": proposals})
    small = {"test_resize": 48, "test_size": 48, "augment": {"short_edges": [48, 56]}}
    write_config(folder / "rpn.yaml", folder / "d", "rpn", data=small)
    return folder


@pytest.fixture(scope="module")
def rcnn(folder: Path) -> Path:
    return resdet.train(
        folder / "rcnn.yaml",
        ["model.rcnn.rois_per_image=3", "model.rcnn.context=0.2", "train.ema_decay=0.9"],
        run_dir=folder / "rcnn",
        device="cpu",
    )


@pytest.fixture(scope="module")
def rpn(folder: Path) -> Path:
    return resdet.train(folder / "rpn.yaml", run_dir=folder / "rpn", device="cpu")


def test_a_run_writes_what_every_run_writes(rcnn: Path) -> None:
    lines = [json.loads(line) for line in (rcnn / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train] == [1, 2]
    for line in train:
        assert line["loss"] == pytest.approx(line["loss_cls"] + line["loss_box"])
        assert 0 <= line["positive_percent"] <= 100
    numbers = json.loads((rcnn / "eval.json").read_text())
    assert 0 <= numbers["loc_error_percent"] <= 100 and numbers["cls_error_percent"] == 0
    pictures = {path.name for path in (rcnn / "plots").iterdir()}
    assert pictures >= {"train_batch1.jpg", "val_predictions.jpg"}


@pytest.mark.slow
def test_it_resumes_bit_exactly_with_the_images_it_has_held_out(
    folder: Path, tmp_path: Path
) -> None:
    options = ["model.rcnn.rois_per_image=3", "data.val=null", "data.split={val: 0.34}"]
    whole, short = tmp_path / "whole", tmp_path / "short"
    resdet.train(folder / "rcnn.yaml", options, run_dir=whole, device="cpu")
    resdet.train(folder / "rcnn.yaml", [*options, "train.max_steps=1"], run_dir=short, device="cpu")
    resdet.train(None, ["train.max_steps=2"], run_dir=short, device="cpu", resume=True)
    losses = []
    for run in (whole, short):
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss_cls" in line])
        assert lines[-1]["eval"]["num_images"] == 2
    assert losses[0] == losses[1] and len(losses[0]) == 2
    assert (whole / "split.json").read_text() == (short / "split.json").read_text()


def test_runs_are_evaluated_alone_and_together(folder: Path, rcnn: Path, rpn: Path) -> None:
    names = ("loc_error_percent", "loc_top1_error_percent")
    stored = json.loads((rcnn / "eval.json").read_text())
    _, again = evaluate_localization_run([rcnn], device="cpu")
    for name in names:
        assert again.result.summary[name] == stored[name]
    for runs, options in (
        ([rcnn, rcnn / "last.pt"], {"proposals": [folder / "p.npz"]}),
        ([rcnn], {"proposals": [rpn], "overrides": ["test.views=dense", "test.merge=vote"]}),
        ([rpn, rpn / "last.pt"], {}),
    ):
        _, validation = evaluate_localization_run(runs, device="cpu", **options)  # type: ignore[arg-type]
        assert 0 <= validation.result.summary[names[0]] <= 100
        assert validation.result.summary["num_images"] == 6


@pytest.mark.parametrize(
    ("runs", "options", "words"),
    [
        (["rpn", "rcnn"], {}, "rcnn: an ensemble has members of one model.type"),
        (["rpn"], {"proposals": ["p.npz"]}, "--proposals is for R-CNNs"),
        (["rcnn"], {"proposals": ["rcnn"]}, "rcnn: is an R-CNN; give a run of model.type rpn"),
        (["rcnn"], {"proposals": ["p.npz", "rpn"]}, "give either RPN runs or .npz files"),
        (["rcnn"], {"overrides": ["test.views=dense"]}, "test.views=dense: belongs to an RPN"),
        (["rcnn"], {"overrides": ["data.val=null"]}, "its config has no data.val"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    folder: Path, rcnn: Path, rpn: Path, runs: list[str], options: dict[str, list[str]], words: str
) -> None:
    if "proposals" in options:
        options = {"proposals": [str(folder / name) for name in options["proposals"]]}
    with pytest.raises(UserError, match=words):
        evaluate_localization_run([folder / run for run in runs], device="cpu", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.proposals.train=null", "needs data.proposals.train"),
        ("test.views=dense", "test.views is for model.type rpn"),
        ("model.rpn.num_convs=0", "model.rpn is for model.type rpn"),
        ("model.type=rpn", "data.proposals is for model.type rcnn"),
        ("data.augment.min_visible=0.1", "data.augment.min_visible is for model.type rpn"),
        ("model.rcnn.context=1", "model.rcnn.context"),
    ],
)
def test_keys_of_the_other_type_are_refused(folder: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(folder / "rcnn.yaml", [override], schema=LocalizationConfig)


def test_predict_says_what_an_r_cnn_needs(folder: Path, rcnn: Path) -> None:
    from resdet.commands.predict import predict_command

    with pytest.raises(UserError, match="--task loc RUN --proposals RPN_RUN"):
        predict_command(
            run=rcnn, inputs=[str(folder / "d" / "images")], out=folder / "o", device="cpu"
        )
