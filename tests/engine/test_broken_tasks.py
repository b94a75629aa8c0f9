"""Broken images, and errors while images are loaded, in classification and localization."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import NoReturn

import pytest

import resdet
from resdet.commands.eval_cls import eval_cls_command
from resdet.commands.propose import propose_command
from resdet.engine import pictures
from resdet.files import checkpoint
from resdet.files.proposals import ProposalFile
from resdet.inference.localization import RegionGuesser, RPNGuesser
from resdet.models.classifier import Classifier
from resdet.models.localizer import Localizer
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import log_of
from tests.engine.loc_data import write_config, write_proposals, write_shapes
from tests.engine.test_broken import cut

QUICK = ["train.max_steps=1", "data.workers=2"]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The config of a classifier; its data are in data/."""
    write_folders(tmp_path / "data")
    config = tmp_path / "cls.yaml"
    config.write_text(FOLDER_YAML.format(root=tmp_path / "data"))
    return config


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """The folder of rpn.yaml and rcnn.yaml, their data d/ and proposals p.npz."""
    write_proposals(tmp_path / "p.npz", write_shapes(tmp_path / "d"))
    small = {"test_resize": 48, "test_size": 48, "augment": {"short_edges": [48, 56]}}
    write_config(tmp_path / "rpn.yaml", tmp_path / "d", "rpn", data=small)
    proposals = {"proposals": {"train": str(tmp_path / "p.npz")}}
    write_config(tmp_path / "rcnn.yaml", tmp_path / "d", "rcnn", data=proposals)
    return tmp_path


def fail(*args: object, **options: object) -> NoReturn:
    raise RuntimeError("a bug")


def in_tests(forward: object) -> object:
    """A forward pass that fails outside of training."""
    return lambda self, *args: forward(self, *args) if self.training else fail()  # type: ignore[operator]


def test_an_error_ends_the_workers_of_a_classifier(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folders.parent / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "forward", in_tests(Classifier.forward))
        with pytest.raises(RuntimeError, match="a bug"):
            resdet.train(folders, QUICK, run_dir=run, device="cpu")
    assert multiprocessing.active_children() == []
    before = set(threading.enumerate())
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "forward", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            eval_cls_command(runs=[run], device="cpu")
    assert set(threading.enumerate()) == before

    # while batch norm statistics are recomputed: after the one batch of training
    normalize, calls = Classifier.normalize, []

    def failing(self: Classifier, images: object) -> object:
        calls.append(images)
        return normalize(self, images) if len(calls) == 1 else fail()  # type: ignore[arg-type]

    monkeypatch.setattr(Classifier, "normalize", failing)
    monkeypatch.setattr(pictures, "NUM_BATCHES", 0)
    options = [*QUICK, "train.precise_bn_images=12", "data.val=null"]
    with pytest.raises(RuntimeError, match="a bug"):
        resdet.train(folders, options, run_dir=folders.parent / "again", device="cpu")
    assert len(calls) == 2 and multiprocessing.active_children() == []


@pytest.mark.parametrize(("kind", "guesser"), [("rpn", RPNGuesser), ("rcnn", RegionGuesser)])
def test_an_error_ends_the_workers_of_a_localizer(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, kind: str, guesser: type
) -> None:
    monkeypatch.setattr(guesser, "guess", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        resdet.train(shapes / f"{kind}.yaml", QUICK, run_dir=shapes / "run", device="cpu")
    assert multiprocessing.active_children() == []
    assert checkpoint.load(shapes / "run" / "last.pt")["validation_is_due"]
    if kind == "rpn":
        monkeypatch.setattr(Localizer, "propose", fail)
        with pytest.raises(RuntimeError, match="a bug"):
            propose_command(run=shapes / "run", out=shapes / "new.npz", device="cpu")
        assert multiprocessing.active_children() == []
        assert not (shapes / "new.npz").exists()


@pytest.mark.slow
def test_a_broken_image_of_an_rpn_has_no_proposals(shapes: Path, caplog) -> None:
    """Training leaves it out, and an R-CNN trains with the proposals of the others."""
    file = shapes / "d" / "images" / "1.png"
    cut(file)
    run = resdet.train(shapes / "rpn.yaml", run_dir=shapes / "rpn", device="cpu")
    lines = log_of(run)
    assert lines[-1]["eval"]["num_broken"] == 1 and lines[-1]["eval"]["num_images"] == 5
    assert lines[-2]["num_broken"] == 1
    caplog.clear()
    assert propose_command(run=run, out=shapes / "p.npz", device="cpu") == 0
    assert f"data.train: 1 broken image(s) left out, 1 of 6 so far: {file}" in caplog.text
    proposals = ProposalFile(shapes / "p.npz")
    counts = [len(proposals.image(row)[0]) for row in proposals.find(range(1, 7))]
    assert counts[0] == 0 and min(counts[1:]) > 0
    run = resdet.train(shapes / "rcnn.yaml", run_dir=shapes / "rcnn", device="cpu")
    lines = log_of(run)
    assert lines[-1]["eval"]["num_broken"] == 1 and lines[-2]["num_broken"] == 1


def test_localization_without_any_image_that_has_an_object(shapes: Path) -> None:
    """The only one of data.val is broken: there is no metric, and so no best.pt."""
    data = json.loads((shapes / "d" / "a.json").read_text())
    data["annotations"] = data["annotations"][:1]
    (shapes / "one.json").write_text(json.dumps(data))
    cut(shapes / "d" / "images" / "1.png")
    options = ["train.max_steps=1", f"data.val.annotations={shapes}/one.json"]
    run = resdet.train(shapes / "rcnn.yaml", options, run_dir=shapes / "run", device="cpu")
    assert log_of(run)[-1]["eval"] == {"num_images": 0, "num_broken": 1}
    assert not (run / "best.pt").exists() and checkpoint.load(run / "last.pt")["best"] is None
