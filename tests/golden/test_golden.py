"""Runs stored by commit c1d7553: today's code must load, evaluate, repeat and resume them.

RESDET_GOLDEN_EXACT=1 asks for equal numbers, which holds on the machine and the torch that made
the files. Otherwise numbers may differ by 1e-4, as other processors round differently.
`make_golden.py` made the files.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import resdet
from tests.golden import measure, tiny_backbone  # noqa: F401  registers the backbone

HERE = Path("tests/golden")
STORED = HERE / "stored"
EXPECTED = json.loads((Path(__file__).parent / "expected.json").read_text())
EXACT = os.environ.get("RESDET_GOLDEN_EXACT") == "1"
TOLERANCE = 1e-4
MASK_PIXELS = 2
"""Pixels at a mask's threshold that may fall to the other side on another machine."""
RUNS = list(EXPECTED["runs"])


@pytest.fixture(autouse=True)
def _restored(repo: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stored configs have paths relative to the repository root.

    Training changes settings of the whole process; the next test gets them as they were.
    """
    monkeypatch.chdir(repo)
    logger = logging.getLogger("resdet")
    level, handlers, propagate = logger.level, list(logger.handlers), logger.propagate
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    yield
    logger.setLevel(level)
    logger.handlers[:], logger.propagate = handlers, propagate
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(was)


def assert_same(found: Any, wanted: Any, place: str = "", *, pixels: bool = False) -> None:
    """Compare nested values; `pixels` marks counts of mask pixels."""
    if isinstance(wanted, dict):
        assert set(found) == set(wanted), place
        for key, value in wanted.items():
            assert_same(found[key], value, f"{place}/{key}", pixels=key == "mask_areas")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), place
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, f"{place}/{number}", pixels=pixels)
    elif isinstance(wanted, float) and not EXACT:
        # an absolute part too: weights of both signs may sum to almost nothing
        assert found == pytest.approx(wanted, rel=TOLERANCE, abs=TOLERANCE), place
    elif pixels and not EXACT:
        assert abs(found - wanted) <= MASK_PIXELS, place
    else:
        assert found == wanted, f"{place}: {found!r} and not {wanted!r}"


@pytest.mark.parametrize("name", [*RUNS, "killed"])
def test_config_is_readable(name):
    path = STORED / name / "config.yaml"
    if name != "classifier":
        assert "backend: fast" in path.read_text()
    assert resdet.build(path).class_names == resdet.load(STORED / name, device="cpu").class_names


@pytest.mark.parametrize("name", RUNS)
def test_predictions(name):
    predict = measure.classify if name == "classifier" else measure.detect
    assert_same(predict(STORED / name), EXPECTED["runs"][name]["predictions"])


def test_last_checkpoint_of_a_run_with_a_best_one():
    assert_same(
        measure.detect(STORED / "mask" / "last.pt"), EXPECTED["runs"]["mask"]["predictions"]
    )


@pytest.mark.parametrize("name", RUNS)
def test_metrics_of_the_command(name, tmp_path):
    evaluate = measure.eval_cls if name == "classifier" else measure.eval_coco
    assert_same(evaluate(STORED / name, tmp_path / "out"), EXPECTED["runs"][name]["metrics"])


@pytest.mark.parametrize("name", ["fpn", "mask"])
def test_metrics_of_records(name):
    assert_same(measure.evaluate_records(STORED / name), EXPECTED["runs"][name]["records"])


@pytest.mark.parametrize("name", RUNS)
def test_new_run_has_the_same_losses(name, tmp_path):
    overrides = [f"train.max_steps={measure.NEW_STEPS}", "data.val=null"]
    config = STORED / name / "config.yaml"
    resdet.train(config, overrides, run_dir=tmp_path / "run", device="cpu")
    assert_same(measure.losses_of(tmp_path / "run"), EXPECTED["runs"][name]["losses"])


@pytest.mark.parametrize("name", RUNS)
def test_finished_run_is_made_longer(name, tmp_path):
    found = measure.extend(STORED / name, tmp_path / "run")
    assert_same(found, EXPECTED["runs"][name]["resumed"])


def test_killed_run_resumes(tmp_path):
    """Its log is ahead of last.pt, and ends within a line."""
    run = tmp_path / "run"
    shutil.copytree(STORED / "killed", run)
    resdet.train(None, [], run_dir=run, resume=True, device="cpu")
    assert_same(measure.whole_run(run), EXPECTED["killed"])


def test_stored_files_name_no_machine():
    """Relative paths alone, in text and in checkpoints."""
    for path in [*STORED.rglob("*.yaml"), *STORED.rglob("*.jsonl"), *STORED.rglob("*.json")]:
        assert '"/' not in path.read_text() and ": /" not in path.read_text(), path
    for path in STORED.rglob("*.pt"):
        found = torch.load(path, map_location="cpu", weights_only=True)
        assert not list(absolute_paths(found)), path


def absolute_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list | tuple):
        for item in value:
            yield from absolute_paths(item)
    elif isinstance(value, str) and value.startswith("/"):
        yield value
