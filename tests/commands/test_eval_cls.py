"""The command on real images: numbers, files, tables, and what it refuses."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from resdet.cli.eval_cls import fill_eval_cls, run_eval_cls
from resdet.commands.eval_cls import eval_cls_command
from resdet.errors import UserError
from resdet.evaluation import METRICS, EvalSettings, Result
from resdet.structures import Classification
from tests.models.tiny_classifier import configured, write_checkpoint

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """ROOT/val with six ants and six bees of several shapes, a bee that is cut short, and an
    empty file."""
    root = tmp_path_factory.mktemp("data")
    for name in ("ants", "bees"):
        (root / "val" / name).mkdir(parents=True)
        images = sorted((shared_data / "hymenoptera_256" / "val" / name).iterdir())
        for image in images[:6]:
            shutil.copy(image, root / "val" / name)
    (root / "val" / "bees" / "short.jpg").write_bytes(images[6].read_bytes()[:4000])
    (root / "val" / "ants" / "empty.jpg").write_bytes(b"")
    return root


@pytest.fixture
def runs(tmp_path: Path, data: Path) -> list[str]:
    """Two run folders with other random weights."""
    paths = []
    for seed in range(2):
        model = configured(["ants", "bees"], seed, root=str(data))
        paths.append(str(write_checkpoint(tmp_path / f"run{seed}" / "best.pt", model).parent))
    return paths


def read(folder: str | Path) -> dict[str, Any]:
    return json.loads((Path(folder) / "eval.json").read_text())


def scores(folder: str | Path) -> dict[str, np.ndarray]:
    with np.load(Path(folder) / "scores.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(1).numpy()


def evaluate(runs: list[str], **more: Any) -> dict[str, Any]:
    return eval_cls_command(runs=runs, device="cpu", **more)


def test_one_run_equals_a_loop_over_predict(
    runs: list[str],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "resdet"):
        numbers = evaluate([runs[0]])
    model = configured(["ants", "bees"], 0)
    hits = 0
    found = scores(runs[0])
    assert found["logits"].shape == (NUM_IMAGES, 2) and found["logits"].dtype == np.float32
    assert found["labels"].tolist() == [0] * 6 + [1] * 6
    for file, label, logits in zip(found["files"], found["labels"], found["logits"], strict=True):
        assert Path(file).parent.name == ["ants", "bees"][label]
        single = model.predict(str(file))
        assert isinstance(single, Classification)
        np.testing.assert_allclose(single.probabilities, softmax(logits[None])[0], rtol=1e-4)
        hits += int(single.labels[0] == label)
    assert read(runs[0]) == numbers
    assert numbers == {
        "top1_percent": pytest.approx(100 * hits / NUM_IMAGES),
        "top5_percent": 100,
        "num_images": NUM_IMAGES,
        "num_broken": 2,
        "crops": "1",
        "weights": str(Path(runs[0]) / "best.pt"),
    }
    with Image.open(Path(runs[0]) / "confusion.png") as picture:
        assert min(picture.size) > 400
    assert "short.jpg" in caplog.text and "empty.jpg" in caplog.text
    printed = capsys.readouterr().out
    assert f"{numbers['top1_percent']:.2f}" in printed and f"written to {runs[0]}" in printed
    assert not list(Path(runs[0]).glob("*.part"))


def test_several_runs_and_their_ensemble(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    numbers = evaluate(runs, ensemble=True, out=out)
    assert read(out) == numbers and list(numbers) == [*runs, "ensemble"]
    members = [scores(out / name) for name in ("run0", "run1")]
    assert read(out / "run0") == numbers[runs[0]] and read(out / "run1") == numbers[runs[1]]
    mean = np.mean([softmax(each["logits"]) for each in members], axis=0)
    assert np.abs(softmax(members[0]["logits"]) - mean).max() > 0.01, "they differ"
    together = scores(out)
    np.testing.assert_allclose(softmax(together["logits"]), mean, rtol=1e-4)
    expected = 100 * np.mean(mean.argmax(1) == together["labels"])
    assert numbers["ensemble"]["top1_percent"] == pytest.approx(expected)
    assert (out / "confusion.png").is_file() and (out / "run1" / "confusion.png").is_file()
    assert not (Path(runs[0]) / "eval.json").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == [*runs, "ensemble"]
    assert len({len(line) for line in lines[:4]}) == 1, "columns are aligned"


def test_default_folders(runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run's own; two checkpoints of one run get folders in it."""
    monkeypatch.chdir(tmp_path)
    last = shutil.copy(Path(runs[0]) / "best.pt", Path(runs[0]) / "last.pt")
    both = [f"{runs[0]}/best.pt", str(last), runs[1]]
    evaluate(both)
    (summary,) = (tmp_path / "runs").iterdir()
    assert summary.name == "eval_run0_best+run0_last+run1"
    assert list(read(summary)) == both
    best, last = (read(Path(runs[0]) / f"eval_{name}") for name in ("best", "last"))
    assert Path(best.pop("weights")).name == "best.pt"
    assert Path(last.pop("weights")).name == "last.pt"
    assert best == last
    assert not (Path(runs[0]) / "eval.json").exists()
    assert read(runs[1]) == read(summary)[runs[1]]


@pytest.mark.parametrize(("crops", "scales"), [("10", None), ("dense", [32, 45])])
def test_crops_and_scales(runs: list[str], crops: str, scales: list[int] | None) -> None:
    numbers = evaluate([runs[0]], crops=crops, scales=scales)
    assert numbers["crops"] == crops and numbers.get("scales") == scales
    logits = scores(runs[0])["logits"].astype(np.float64)
    np.testing.assert_allclose(np.exp(logits).sum(1), 1, rtol=1e-5)


def test_overrides_apply_to_each_run(runs: list[str], data: Path, tmp_path: Path) -> None:
    """And no longer than it is evaluated: threads are as many as before."""
    threads = torch.get_num_threads()
    shutil.copytree(data / "val" / "bees", tmp_path / "other" / "bees")
    changes = [f"data.val.root={tmp_path / 'other'}", f"train.threads={threads + 1}"]
    numbers = evaluate(runs, overrides=changes, out=tmp_path / "o")
    assert torch.get_num_threads() == threads
    assert [each["num_images"] for each in numbers.values()] == [6, 6]
    assert [each["num_broken"] for each in numbers.values()] == [1, 1]


def test_a_metric_of_ones_own_is_computed_beside_accuracy(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CountLabels:
        """How many images of the last class there are."""

        def __init__(self, class_names: list[str], settings: EvalSettings) -> None:
            self.last, self.state = len(class_names) - 1, 0

        def update(self, image_ids: list[str], predictions: tuple[Tensor, Tensor]) -> None:
            self.state += int((predictions[1] == self.last).sum())

        def merge(self, state: int) -> None:
            self.state += state

        def compute(self) -> Result:
            return Result({"num_last": self.state}, ("num_last", self.state), f"{self.state}")

    monkeypatch.setitem(METRICS, "last", CountLabels)
    numbers = evaluate(runs, overrides=["eval.metric=last"], ensemble=True, out=tmp_path / "o")
    labels = scores(next((tmp_path / "o").glob("*/scores.npz")).parent)["labels"]
    assert {one["num_last"] for one in numbers.values()} == {int((labels == labels.max()).sum())}
    assert all("top1_percent" in one for one in numbers.values())
    with pytest.raises(UserError, match=r"eval\.metric: 'nope' is not a metric"):
        evaluate(runs[:1], overrides=["eval.metric=nope"], out=tmp_path / "n")


def test_wrong_data_are_refused_before_anything_is_computed(
    runs: list[str], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"{runs[0]}: data\.val: null; give data\.val\.root"):
        evaluate(runs[:1], overrides=["data.val=null"], out=out)
    shutil.copytree(data / "val" / "ants", tmp_path / "other" / "wasps")
    with pytest.raises(UserError) as error:
        evaluate(runs[:1], overrides=[f"data.val.root={tmp_path / 'other'}"], out=out)
    assert all(name in str(error.value) for name in ("wasps", "ants", "bees", runs[0]))
    with pytest.raises(UserError, match="corners and centre are one place"):
        evaluate(runs[:1], overrides=["data.test_resize=32"], crops="10", out=out)
    with pytest.raises(UserError, match="no such file or folder"):
        evaluate([runs[0], "absent"], out=out)
    with pytest.raises(UserError, match="has no classifier 'resnet5'"):
        evaluate(["torchvision:resnet5.IMAGENET1K_V1"], out=out)
    with pytest.raises(UserError, match="given twice"):
        evaluate([runs[0], runs[0]], out=out)
    with pytest.raises(UserError, match="two runs or more"):
        evaluate(runs[:1], ensemble=True, out=out)
    assert not out.exists()
    with pytest.raises(UserError, match="cannot be made a folder"):
        evaluate(runs[:1], out=Path(runs[0]) / "best.pt")


def test_a_file_without_class_names_gets_them_from_the_user(data: Path, tmp_path: Path) -> None:
    """In half precision; by position, in the order that is given."""
    torch.manual_seed(0)
    state = torchvision.models.resnet18(num_classes=2).state_dict()
    path, out = tmp_path / "half.pth", tmp_path / "out"
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, path)
    val = f"data.val.root={data / 'val'}"
    with pytest.raises(
        UserError, match=r"half\.pth: .*no names for its 2 classes, and the data has 2 \(ants, bees"
    ):
        evaluate([str(path)], overrides=[val], out=out)
    with pytest.raises(UserError, match="names 1 classes, and the file has 2 without names"):
        evaluate([str(path)], overrides=[val, "data.classes=[ants]"], out=out)
    one, other = (
        evaluate([str(path)], overrides=[val, f"data.classes={names}"], out=out)["top1_percent"]
        for names in ("[ants,bees]", "[bees,ants]")
    )
    assert one + other == pytest.approx(100)


@pytest.mark.parametrize(
    ("key", "folder", "problem"),
    [
        ("data.val.root", "none", "no such folder: "),
        ("data.root", "none", "no such folder: "),
        ("data.val.root", "empty", "no class folders in it"),
    ],
)
def test_missing_data_name_their_key_line_by_line(
    runs: list[str], tmp_path: Path, key: str, folder: str, problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as caught:
        evaluate(runs[:1], overrides=[f"{key}={tmp_path / folder}"], out=tmp_path / "out")
    first, *others = str(caught.value).splitlines()
    assert first.startswith(f"{runs[0]}: {key}: ") and problem in first
    assert others[0] == "Images to classify are expected as"


def command(*argv: str) -> int:
    parser = argparse.ArgumentParser(prog="eval-cls", allow_abbrev=False)
    fill_eval_cls(parser)
    assert all(action.help for action in parser._actions)
    return run_eval_cls(parser.parse_intermixed_args(argv), parser)


def test_the_command_line(runs: list[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = [f"data.val.root={data / 'val'}", "--crops", "dense", "--scales", "32,24", "--ensemble"]
    assert command(*runs, *argv, "--out", str(out), "--device", "cpu") == 0
    assert list(read(out)) == [*runs, "ensemble"]
    assert read(out)["ensemble"]["scales"] == [32, 24]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a RUN_OR_CHECKPOINT"),
        (["data.holdout=0"], "give a RUN_OR_CHECKPOINT"),
        (["a", "--ensemble"], "--ensemble needs two runs or more"),
        (["a", "--scales", "224"], "--scales needs --crops dense"),
        (["a", "--crops", "dense", "--scales", "224,x"], "pixels with commas"),
        (["a", "--crops", "5"], "invalid choice"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], argv: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        command(*argv)
    assert message in capsys.readouterr().err
