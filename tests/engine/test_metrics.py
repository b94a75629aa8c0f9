"""Training and evaluating runs by other metrics than COCO's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import resdet
from resdet.cli import main
from resdet.commands.eval_voc import eval_voc_command
from tests.engine.conftest import Tiny, log_of


def test_a_run_is_trained_and_evaluated_by_vocs_metric(tiny: Tiny, tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ["eval.metric=voc07", "train.max_steps=1", "model.score_thresh=0"]
    resdet.train(tiny.config, overrides, run_dir=run, device="cpu")
    logged = log_of(run)[-1]["eval"]
    assert list(logged) == ["mAP", "num_classes", "num_without_value"]
    assert json.loads((run / "eval.json").read_text()) == logged
    assert (run / "best.pt").is_file() and (run / "pr_voc07.png").is_file()
    # the run's own metric, though voc12 is the command's first; detections go into a submission,
    # which evaluates to the same
    out = tmp_path / "out"
    assert main(["eval-voc", str(run), "--submission", "--out", str(out), "--device", "cpu"]) == 0
    first = json.loads((out / "eval.json").read_text())
    assert first == logged
    again = eval_voc_command(
        detections=out / "voc_results.tar.gz",
        annotations=tiny.config.parent / "val.json",
        format="coco",
        year=2007,
        out=tmp_path / "again",
    )
    assert again.summary["mAP"] == pytest.approx(logged["mAP"], abs=1e-12)
    detections = again.detections
    assert len(detections.scores) > 20
    assert (
        main(["eval-imagenet", str(run), "--task", "det", "--out", str(out), "--submission"]) == 0
    )
    assert "median_AP" in json.loads((out / "eval.json").read_text())
    lines = (out / "det_predictions.txt").read_text().split("\n")[:-1]
    assert len(lines) == len(detections.scores)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(repo: Path, tiny: Tiny, tmp_path: Path) -> None:
    from tests.engine.test_distributed import same_size, torchrun

    overrides = [*same_size(tiny.backbone), "train.max_steps=1", "train.precision=fp64"]
    overrides += ["eval.metric=voc12", "model.score_thresh=0"]
    done = torchrun(repo, tiny.config, tmp_path / "two", overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    resdet.train(tiny.config, overrides, run_dir=tmp_path / "one", device="cpu")
    one, two = (log_of(tmp_path / name)[-1]["eval"] for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-9)
