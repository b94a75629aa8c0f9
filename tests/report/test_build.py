"""Reports of real runs: at the end of a training, by the command, and of runs side by side."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resdet
from resdet.cli import main
from resdet.commands.report import report_command
from resdet.errors import Incomplete, UserError, command_line
from resdet.evaluation.stored import FILE, Answers, read_stored, store
from resdet.files.images import read_image
from resdet.report import build
from resdet.report.data import Report
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import write_tiny

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Report]:
    """The reports that are written."""
    reports: list[Report] = []
    make = build.make_report

    def kept(sources: Any, share: float = 1.0) -> Report:
        reports.append(make(sources, share))
        return reports[-1]

    monkeypatch.setattr(build, "make_report", kept)
    return reports


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, nuclei: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_tiny(folder, nuclei, folder / "tiny.yaml")


@pytest.fixture(scope="module")
def run(config: Path, blank_figures: None) -> Path:
    """A detector's run of one step, with its report."""
    folder = config.parent / "run"
    overrides = ["train.max_steps=1", "model.score_thresh=0", "log.report=true"]
    resdet.train(config, overrides, run_dir=folder, device="cpu")
    return folder


def test_a_training_ends_with_its_report(run: Path, made: list[Report]) -> None:
    page = (run / "report.html").read_text()
    assert page.startswith("<!doctype html>") and len(page) < 15e6
    report_command(runs=[run], out=run.parent / "again.html")
    (one,) = made[0].runs
    stored = json.loads((run / "eval.json").read_text())
    assert one.metrics is not None and [row[0] for row in one.metrics.rows] == ["bbox", "segm"]
    for row in one.metrics.rows:
        values = dict(zip(one.metrics.columns[1:], row[1:], strict=True))
        expected = {k: None if v == -1 else v for k, v in stored[row[0]].items()}
        assert values == expected  # to the last digit
    for errors in one.errors:
        tide = stored["tide"][errors.kind]
        assert errors.ap50 == tide["AP50"]
        assert {each.name: each.count for each in errors.types} == tide["counts"]
        assert {each.name: each.delta for each in errors.types} == tide["delta_AP50"]
    for calibration in one.calibration:
        assert calibration.ece == stored["calibration"][calibration.kind]["ece"]
    assert [each.name for each in one.statistics] == ["data.train", "data.val"]
    assert one.statistics[0].facts[0].value == "10"
    facts = {fact.name: fact.value for fact in one.facts}
    assert facts["numbers of"] == "step 1" and facts["backbone"] == "resnet18"
    keys = [difference.key for difference in one.config_differences]
    assert "optim.lr" not in keys  # .02 is the default
    assert {"train.max_steps", "model.rpn.anchor_sizes"} <= set(keys)
    assert {chart.title for chart in one.curves} >= {"Losses", "Learning rate", "Validation"}


def test_pictures_hold_what_items_are_about(run: Path, made: list[Report], nuclei: Path) -> None:
    report_command(runs=[run], out=run.parent / "again.html")
    (one,) = made[0].runs
    pictures = made[0].pictures
    assert 0 < len(pictures) <= 3
    for picture in pictures:
        image = read_image(nuclei / "images" / picture.name)
        assert picture.original == image.shape[:2] and picture.jpeg[:2] == b"\xff\xd8"
        scale = picture.width / image.shape[1]
        for mark in [*picture.truths, *picture.detections]:
            x1, y1, x2, y2 = mark.box
            assert -1 <= x1 <= x2 <= image.shape[1] * scale + 1 and y1 <= y2
            assert mark.path is not None and set(mark.path) <= set("Mlz -0123456789")
        for mark in picture.truths:
            assert mark.status in ("found", "missed", "crowd")
            if mark.partner is not None:
                assert picture.detections[mark.partner].status == "correct"
    for group in one.gallery:
        assert len(group.items) <= group.total
        for item in group.items:
            picture = pictures[item.picture]
            for place in item.detections:
                assert item.score in (
                    None,
                    pytest.approx(picture.detections[place].score, abs=1e-4),
                )
                if group.key == "false_positives":
                    assert picture.detections[place].status == item.error


def test_too_large_a_page_gets_smaller_pictures(
    run: Path, tmp_path: Path, made: list[Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "MAX_PAGE", 100_000)
    monkeypatch.setattr("resdet.report.pictures.PICTURE_BYTES", 50_000)
    report_command(runs=[run], out=tmp_path / "page.html")
    large, small = (sum(len(one.jpeg) for one in each.pictures) for each in made)
    assert small < large and [len(each.pictures) for each in made] == [3, 3]


def test_a_run_without_predictions_is_evaluated_first(
    run: Path, tmp_path: Path, made: list[Report]
) -> None:
    for name in ("config.yaml", "log.jsonl", "best.pt"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    # files alone: what eval-coco would write as well
    assert main(["report", str(tmp_path), "--device", "cpu", "--precision", "fp32"]) == 0
    assert (tmp_path / "report.html").is_file()
    before, after = read_stored(run), read_stored(tmp_path)
    assert np.array_equal(before.predictions.scores, after.predictions.scores)  # type: ignore[union-attr]
    assert (tmp_path / "eval.json").read_text() == (run / "eval.json").read_text()
    # a damaged file is made again
    (tmp_path / FILE).write_bytes(b"PK")
    report_command(runs=[tmp_path], device="cpu", precision="fp32")
    assert read_stored(tmp_path).config == after.config
    assert made[-1].runs[0].gallery


@pytest.mark.slow
def test_two_runs_side_by_side(run: Path, config: Path, tmp_path: Path, made: list[Report]) -> None:
    other = tmp_path / "other"
    overrides = ["train.max_steps=1", "model.score_thresh=0", "train.seed=4"]
    resdet.train(config, overrides, run_dir=other, device="cpu")
    assert not (other / "report.html").exists()  # log.report is false in this config
    page = report_command(runs=[run / "best.pt", other], out=tmp_path / "p.html")
    assert page == tmp_path / "p.html" and page.is_file()
    report = made[0]
    assert [each.name for each in report.runs] == ["run", "other"]
    assert report.metrics is not None and len(report.metrics.rows) == 2
    (comparison,) = report.comparisons
    assert [d.key for d in comparison.config_differences] == ["train.seed", "log.report"]
    for each in comparison.significance:
        assert each.delta == pytest.approx(each.other - each.first)
        assert each.low is not None and each.high is not None and each.low <= each.high
        chance = each.low <= 0 <= each.high
        assert each.verdict == ("no difference beyond chance" if chance else each.verdict)
    for picture in report.pictures:
        runs = {mark.run for mark in picture.detections}
        assert runs <= {0, 1}
        for mark in picture.detections:
            if mark.partner is not None:
                assert picture.truths[mark.partner].run == mark.run
    for number, one in enumerate(report.runs):
        for group in one.gallery:
            for item in group.items:
                picture = report.pictures[item.picture]
                marked = [picture.detections[place] for place in item.detections]
                assert {mark.run for mark in marked} <= {number}
                if group.key == "false_positives":
                    assert [mark.status for mark in marked] == [item.error]
                if group.key == "missed":
                    assert picture.truths[item.truths[0]].run == number
    changed = comparison.changed
    assert changed is not None and changed.key == "changed"
    for item in changed.items:
        assert {mark.run for mark in report.pictures[item.picture].truths} == {0, 1}


def test_data_that_is_gone_leaves_an_honest_page(
    run: Path, tmp_path: Path, made: list[Report], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    arguments = [str(run), "data.val.annotations=gone.json", "data.val.images=gone"]
    assert main(["report", *arguments, "--out", str(out)]) == 1
    assert "gone" in capsys.readouterr().err and out.is_file()
    (one,) = made[0].runs
    assert any("no errors and images are shown" in note for note in one.notes)
    assert one.metrics is not None and one.curves and not one.gallery and not one.errors
    # other annotations of the same images
    val = json.loads((run.parent / "val.json").read_text())
    val["annotations"] = val["annotations"][1:]
    (tmp_path / "val.json").write_text(json.dumps(val))
    report_command(runs=[run], overrides=[f"data.val.annotations={tmp_path / 'val.json'}"], out=out)
    (one,) = made[1].runs
    assert any("evaluate the run again" in note for note in one.notes)


def test_images_that_are_gone_are_marks_on_a_ground(
    run: Path, tmp_path: Path, made: list[Report], nuclei: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resdet.data.detection.dataset import DetectionDataset

    monkeypatch.setattr(DetectionDataset, "path", lambda *_: tmp_path / "gone.png")
    report_command(runs=[run], out=tmp_path / "page.html")
    assert all(not picture.jpeg and picture.width > 100 for picture in made[0].pictures)
    assert all(picture.truths for picture in made[0].pictures)
    assert "cannot be shown" in made[0].notes[0]


def test_a_failing_report_ends_no_run(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no page today")

    monkeypatch.setattr(build, "make_report", fails)
    logging.getLogger("resdet").propagate = True
    overrides = ["train.max_steps=1", "data.val=null", "log.report=true"]
    with caplog.at_level(logging.WARNING, "resdet"):
        resdet.train(config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert "no page today" in caplog.text and command_line("report") in caplog.text
    assert (tmp_path / "run" / "last.pt").is_file()


@pytest.mark.slow
def test_by_vocs_metric_and_without_validation(
    config: Path, tmp_path: Path, made: list[Report]
) -> None:
    base = ["train.max_steps=1", "model.score_thresh=0", "log.report=true"]
    resdet.train(config, [*base, "eval.metric=voc12"], run_dir=tmp_path / "voc", device="cpu")
    (one,) = made[0].runs
    stored = json.loads((tmp_path / "voc" / "eval.json").read_text())
    assert one.metrics is not None and one.metrics.rows[0][1] == stored["mAP"]
    assert any("VOC" in note for note in one.notes) and one.gallery and one.errors
    resdet.train(config, [*base, "data.val=null"], run_dir=tmp_path / "none", device="cpu")
    (one,) = made[1].runs
    assert one.metrics is None and not one.gallery and one.curves and one.notes
    assert (tmp_path / "none" / "report.html").is_file()
    with pytest.raises(UserError, match="given twice"):
        report_command(runs=[tmp_path / "voc", tmp_path / "voc"])
    with pytest.raises(UserError, match="not a run folder"):
        report_command(runs=[tmp_path])


def test_a_classifiers_report(tmp_path: Path, made: list[Report]) -> None:
    data = write_folders(tmp_path / "data")
    (tmp_path / "c.yaml").write_text(FOLDER_YAML.format(root=data))
    resdet.train(
        tmp_path / "c.yaml",
        ["train.max_steps=1", "log.report=true"],
        run_dir=tmp_path / "run",
        device="cpu",
    )
    (one,) = made[0].runs
    stored = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert one.metrics is not None
    values = dict(zip(one.metrics.columns[1:], one.metrics.rows[0][1:], strict=True))
    assert values["top1 %"] == stored["top1_percent"] and values["images"] == 18
    matrix = np.array(one.confusion[0].matrix)
    assert 100 * np.trace(matrix) / 18 == pytest.approx(stored["top1_percent"])
    assert one.confusion[0].names == ["blue", "green", "red"]
    assert sum(each.count for each in one.calibration[0].bins) == 18
    assert len(one.calibration[0].bins) == 15
    (losses,) = one.gallery
    assert losses.key == "top_losses" and losses.total == 18 and len(losses.items) == 18
    first = made[0].pictures[losses.items[0].picture]
    assert first.jpeg and first.caption.startswith("is ")
    assert main(["eval-cls", str(tmp_path / "run"), "--device", "cpu"]) == 0
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    both = report_command(runs=[tmp_path / "run", tmp_path / "other"], out=tmp_path / "both.html")
    assert both.is_file()
    (comparison,) = made[-1].comparisons
    assert [each.metric for each in comparison.significance] == ["top1 %", "top5 %"]
    assert {each.delta for each in comparison.significance} == {0.0}
    # a run that knew one class more, and whose training data are gone
    before = read_stored(tmp_path / "other")
    answers = before.predictions
    assert isinstance(answers, Answers)
    more = replace(
        answers,
        class_names=[*answers.class_names, "yellow"],
        top=np.insert(answers.top, 0, 3, axis=1),
        top_scores=np.insert(answers.top_scores, 0, 0.5, axis=1),
    )
    assert store(tmp_path / "other", more, before.config) is not None
    with pytest.raises(Incomplete, match=r"no statistics of data\.train are shown: its"):
        report_command(runs=[tmp_path / "run", tmp_path / "other"], out=tmp_path / "both.html")
    changed = made[-1].comparisons[0].changed
    assert changed is not None and "predicted yellow 50%" in changed.items[0].reason


def test_runs_of_two_tasks_have_nothing_in_common(run: Path, tmp_path: Path) -> None:
    (tmp_path / "cls").mkdir()
    (tmp_path / "cls" / "config.yaml").write_text(FOLDER_YAML.format(root=tmp_path / "gone"))
    with pytest.raises((UserError, Incomplete), match="compare one task"):
        report_command(runs=[run, tmp_path / "cls"], out=tmp_path / "p.html")
