"""From a classifier's five best classes to the localization error, with small runs, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import resdet
from resdet.cli import main
from resdet.commands.eval_imagenet import eval_imagenet_command
from resdet.commands.loc_options import LocOptions
from resdet.errors import UserError
from tests.engine.loc_data import (
    NAMES,
    write_class_folders,
    write_config,
    write_proposals,
    write_shapes,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rpn/, rcnn/ and cls/ trained for a step or two; the data d/ and proposals p.npz."""
    folder = tmp_path_factory.mktemp("loc")
    shapes = write_shapes(folder / "d")
    write_proposals(folder / "p.npz", shapes)
    classes = write_class_folders(folder / "d", shapes, folder / "classes")
    quick = ["train.max_steps=1", "train.threads=1"]
    small = {"test_resize": 48, "test_size": 48, "augment": {"short_edges": [48, 56]}}
    write_config(folder / "rpn.yaml", folder / "d", "rpn", data=small)
    proposals = {"proposals": {"train": str(folder / "p.npz")}}
    write_config(folder / "rcnn.yaml", folder / "d", "rcnn", data=proposals)
    for name in ("rpn", "rcnn"):
        resdet.train(folder / f"{name}.yaml", quick, run_dir=folder / name, device="cpu")
    text = {
        "task": "classification",
        "model": {"backbone": {"name": "cifar_resnet20"}},
        "data": {
            **{"train": {"root": str(classes)}, "val": {"root": str(classes)}, "workers": 0},
            **{"size": 32, "test_resize": 40, "test_size": 32},
        },
        "train": {"max_steps": 1, "batch_size": 4, "threads": 1},
        "log": {"tensorboard": False},
    }
    (folder / "cls.yaml").write_text(json.dumps(text))
    resdet.train(folder / "cls.yaml", run_dir=folder / "cls", device="cpu")
    return folder


def evaluate(folder: Path, run: str | list[str], **options: object) -> dict[str, object]:
    runs = [str(folder / each) for each in ([run] if isinstance(run, str) else run)]
    loc = LocOptions(**options)  # type: ignore[arg-type]
    out = folder / "out"
    result = eval_imagenet_command(task="loc", run=runs, loc=loc, out=out, device="cpu")
    assert json.loads((out / "eval.json").read_text()) == result.summary
    return result.summary


def test_the_classification_error_beside_it_is_that_of_the_classifier(folder: Path) -> None:
    from resdet.commands.eval_cls import eval_cls_command

    cls = str(folder / "cls")
    accuracy = eval_cls_command(runs=[cls], out=folder / "cls_out", device="cpu", crops="10")
    for run in ("rpn", "rcnn"):
        summary = evaluate(folder, run, classifiers=[cls], crops="10")
        # of two classes five guesses name both
        assert summary["cls_error_percent"] == 0
        top1 = 100 - accuracy["top1_percent"]
        assert summary["cls_top1_error_percent"] == pytest.approx(top1)
        assert summary["classes"] == f"top 5 of {cls}"
        oracle = evaluate(folder, run, oracle=True)
        # both classes are guessed, so that the true one's box decides
        assert summary["loc_error_percent"] == oracle["loc_error_percent"]
        assert summary["loc_top1_error_percent"] >= oracle["loc_error_percent"]


def test_ensembles_of_everything_in_one_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    arguments = [
        *("eval-imagenet", "--task", "loc", "rcnn", "rcnn/last.pt", "--ensemble"),
        *("--classifier", "cls", "--classifier", "cls/last.pt", "--crops", "dense"),
        *("--scales", "32,40", "--proposals", "rpn", "--proposals", "rpn/last.pt"),
        *("--submission", "--device", "cpu", "test.flip=true"),
    ]
    assert main(arguments) == 0
    out = folder / "runs" / "eval_rcnn+rcnn"
    assert str(out.relative_to(folder)) in capsys.readouterr().out
    lines = (out / "loc_predictions.txt").read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        numbers = np.array(line.split(), float).reshape(-1, 5)
        # two guesses, both classes, boxes inside the picture
        assert sorted(numbers[:, 0].tolist()) == [1, 2] and numbers[:, 1:].max() < 64
    ensemble = json.loads((out / "eval.json").read_text())
    # the file read back gives the same numbers
    again = eval_imagenet_command(
        task="loc",
        detections=out / "loc_predictions.txt",
        annotations=folder / "d" / "a.json",
        format="coco",
        out=folder / "again",
    )
    for key in ("cls_error_percent", "num_images"):
        assert again.summary[key] == ensemble[key]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give --classifier RUN, whose five best are taken, or --oracle"),
        ({"oracle": True, "classifiers": ["cls"]}, "both are given"),
        ({"oracle": True, "crops": "10"}, "--crops and --scales belong to --classifier"),
        ({"classifiers": ["rpn"]}, "rpn"),
        ({"classifiers": ["absent"]}, "absent"),
    ],
)
def test_wrong_combinations_are_refused(
    folder: Path, options: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=words):
        evaluate(folder, "rcnn", **options)


def test_options_of_localization_need_a_run_and_their_task(folder: Path) -> None:
    loc = LocOptions(oracle=True)
    with pytest.raises(UserError, match="--oracle is for --task loc"):
        eval_imagenet_command(task="det", run=folder / "rcnn", loc=loc)
    with pytest.raises(UserError, match="--oracle needs a run"):
        eval_imagenet_command(task="loc", detections="p.txt", annotations="a.json", loc=loc)


SWAPPED = [
    (
        "eval-imagenet --task loc rpn --oracle --proposals rcnn",
        "rpn is an RPN and --proposals rcnn an R-CNN; swap them",
    ),
    (
        "eval-imagenet --task loc rpn --oracle --proposals p.npz",
        "--proposals is for R-CNNs, and rpn is an RPN; leave it out",
    ),
    (
        "eval-imagenet --task loc rcnn --oracle --proposals cls",
        "--proposals cls: is a classifier; give a run of model.type rpn or a file",
    ),
    (
        "eval-imagenet --task loc cls --classifier rcnn",
        "--classifier rcnn: is a localizer; give the run of a classifier there",
    ),
    (
        "eval-imagenet --task loc p.npz --oracle --proposals rcnn",
        "p.npz: is a proposals file; give it as --proposals",
    ),
    (
        "eval-imagenet --task loc --detections xml --annotations dets.txt",
        "--detections xml looks like ground truth, and --annotations dets.txt can't be read",
    ),
    (
        "eval-imagenet --task det --detections d/a.json --annotations dets.txt",
        "--detections d/a.json looks like ground truth, and --annotations dets.txt",
    ),
    ("predict p2.npz --proposals rpn", "--proposals rpn: is a run, which comes first"),
    ("predict rpn --proposals rcnn", "--proposals rcnn: is not the name of an npz file"),
    (
        "predict d/images rpn --out o",
        "d/images: is not a run or checkpoint, and the input rpn is one",
    ),
    ("predict d/images/1.png cls/last.pt --out o", "the input cls/last.pt is one; give it first"),
    ("convert out.pth rpn", "out.pth: no such file, and rpn is one; give IN first"),
    ("convert out.pth rpn/best.pt", "out.pth: no such file, and rpn/best.pt is one"),
    ("analyze --responses rpn", "--responses rpn: is a localizer; give the run of a classifier"),
    ("train-det rpn", "rpn: is a run folder; give rpn/config.yaml for another run"),
    ("train-cls cls", "--resume --run-dir cls to continue it"),
    ("train-det rpn.yaml --run-dir p.npz", "--run-dir p.npz: is a file; give a folder"),
    ("eval-cls d/a.json", "has no weights; give a run folder or another checkpoint"),
    ("eval-cls cls/config.yaml", "has no weights; give the run folder cls or another checkpoint"),
    (
        "train-det rcnn.yaml --run-dir x data.proposals.train=rpn",
        "rpn: is a folder; give a file that",
    ),
    (
        "train-det rcnn.yaml --run-dir x data.proposals.train=rpn/last.pt",
        "rpn/last.pt: not a proposals file",
    ),
    (
        "train-det rpn.yaml --run-dir x data.train.images=xml data.train.annotations=d/images "
        "data.train.format=imagenet_loc",
        "d/images: holds no annotations, and data.train.images, xml, has xml/n1.xml; swap the two",
    ),
    (
        "train-det rpn.yaml --run-dir x data.val.images=d data.val.annotations=empty",
        "data.val.images, d, has d/a.json; swap the two",
    ),
]


@pytest.mark.parametrize(("command", "words"), SWAPPED)
def test_swapped_arguments_are_named(
    folder: Path,
    command: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of every command: what is right in itself, and stands in another one's place."""
    monkeypatch.chdir(folder)
    (folder / "xml").mkdir(exist_ok=True)
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "xml/n1.xml").write_text("<annotation></annotation>")
    (folder / "dets.txt").write_text("1 2 3 20 30\n")
    (folder / "p2.npz").unlink(missing_ok=True)
    assert main(command.split()) == 2
    assert words in capsys.readouterr().err
    assert "cls" in {path.name for path in folder.iterdir() if (path / "last.pt").is_file()}


@pytest.mark.parametrize("run", ["cls", "cls/last.pt", "rpn", "new"])
def test_networks_of_runs_are_counted(
    folder: Path, run: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the classes of the data, which the config leaves open; also before a checkpoint."""
    monkeypatch.chdir(folder)
    (folder / "new").mkdir(exist_ok=True)
    (folder / "new/config.yaml").write_text((folder / "rpn/config.yaml").read_text())
    assert main(["analyze", run]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    if "cls" in run:
        assert row[:5] == [run, "32×32", "2", "20", "269,202"]
    else:
        assert row[:3] == [f"{run},", "backbone", "48×48"]


def test_a_check_estimates_memory_of_maps_of_one_pixel(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Batch norm has no statistics of one image there."""
    with caplog.at_level("INFO", "resdet"):
        overrides = ["data.size=32"]
        resdet.train(folder / "rpn.yaml", overrides, run_dir=folder / "c", device="cpu", check=True)
    assert "memory: about" in caplog.text


def test_the_programs_threads_are_as_many_as_before(folder: Path) -> None:
    threads = torch.get_num_threads()
    loc, changes = LocOptions(oracle=True), [f"train.threads={threads + 1}"]
    run, out = folder / "rcnn", folder / "threads"
    eval_imagenet_command(task="loc", run=run, overrides=changes, loc=loc, out=out, device="cpu")
    assert torch.get_num_threads() == threads


def test_a_classifier_of_other_classes_is_refused(folder: Path) -> None:
    other = folder / "other"
    for name in NAMES:
        (other / f"{name}s").mkdir(parents=True)
        (other / f"{name}s" / "1.png").write_bytes((folder / "d/images/1.png").read_bytes())
    options = [f"data.train.root={other}", f"data.val.root={other}", "train.batch_size=2"]
    resdet.train(folder / "cls.yaml", options, run_dir=folder / "cls2", device="cpu")
    with pytest.raises(UserError, match="2 of its 2 classes are unknown to the localizer: discs"):
        evaluate(folder, "rcnn", classifiers=[str(folder / "cls2")])


def test_data_with_fewer_classes_count_guesses_of_others_as_wrong(folder: Path) -> None:
    data = json.loads((folder / "d" / "a.json").read_text())
    kept = [each for each in data["annotations"] if each["category_id"] == 1]
    ids = {each["image_id"] for each in kept}
    data |= {
        "annotations": kept,
        "images": [image for image in data["images"] if image["id"] in ids],
        "categories": data["categories"][:1],
    }
    (folder / "one.json").write_text(json.dumps(data))
    override = [f"data.val.annotations={folder / 'one.json'}"]
    summary = [
        eval_imagenet_command(
            task="loc",
            run=folder / run,
            overrides=override,
            loc=LocOptions(classifiers=[str(folder / "cls")]),
            submission=True,
            out=folder / "fewer",
            device="cpu",
        ).summary
        for run in ("rcnn", "rpn")
    ]
    for each in summary:
        assert each["num_images"] == 3 and each["cls_error_percent"] == 0
        # the classifier's first guess is right or of the class that the data lack
        assert each["cls_top1_error_percent"] in (0, 100 / 3, 200 / 3, 100)
    lines = (folder / "fewer" / "loc_predictions.txt").read_text().splitlines()
    assert {len(line.split()) for line in lines} == {10}


def test_test_images_without_annotations_give_a_submission(folder: Path) -> None:
    data = json.loads((folder / "d" / "a.json").read_text())
    del data["annotations"]
    (folder / "test.json").write_text(json.dumps(data))
    override = [f"data.val.annotations={folder / 'test.json'}"]
    loc = LocOptions(classifiers=[str(folder / "cls")], proposals=[str(folder / "rpn")])
    options = {"overrides": override, "out": folder / "test", "device": "cpu"}
    result = eval_imagenet_command(
        task="loc", run=folder / "rcnn", loc=loc, submission=True, **options
    )
    assert "loc_error_percent" not in result.summary
    lines = (folder / "test" / "loc_predictions.txt").read_text().splitlines()
    assert [len(line.split()) for line in lines] == [10] * 6
    with pytest.raises(UserError, match="it has no annotations"):
        eval_imagenet_command(
            task="loc", run=folder / "rpn", loc=LocOptions(oracle=True), **options
        )
