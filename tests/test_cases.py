"""Data sets and files after public bug reports, through the commands: none ends in a traceback.

`public` are small COCO folders, `fuzz` the smallest inputs that once ended in a traceback or crash;
the table in their README says what each must lead to.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from resdet.cli import main
from resdet.config.loading import load_any_config
from resdet.errors import UserError
from resdet.factory.imports import load_named_config
from resdet.files import checkpoint
from resdet.files.images import read_image
from tests.fuzz.outcome import check_message, command
from tests.golden import tiny_backbone

RUN = Path(__file__).parent / "golden" / "stored" / "mask"
assert tiny_backbone.golden_tiny


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    """Folder of the cases, which are not shipped: RESDET_SHARED_CASES or ../shared/cases."""
    folder = Path(os.environ.get("RESDET_SHARED_CASES", shared_data.parent / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no cases at {folder}; set RESDET_SHARED_CASES to their folder")
    return folder


@dataclass
class Trained:
    """A training of two steps: its exit code, all it printed, and its run folder."""

    code: int
    text: str
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        assert self.code == 0, self.text
        return checkpoint.load(self.folder / "last.pt")


@dataclass
class Trainer:
    cases: Path
    folder: Path
    capsys: pytest.CaptureFixture[str]
    caplog: pytest.LogCaptureFixture

    def __call__(self, case: str | Path, *more: str, val: str | None = None) -> Trained:
        """Train on a case, or another folder, validating after each step on its file `val`."""
        data = self.cases / "public" / case
        parts = {"train": "a.json"} if val is None else {"train": "a.json", "val": val}
        given = [f"data.{part}.images={data / 'images'}" for part in parts]
        given += [f"data.{part}.annotations={data / file}" for part, file in parts.items()]
        given += ["data.val=null"] if val is None else []
        steps = ["train.max_steps=2", "optim.milestones=[]", "eval.every=1", "data.workers=0"]
        run = ["--run-dir", str(self.folder), "--device", "cpu"]
        self.capsys.readouterr()
        code = main(["train-det", str(RUN / "config.yaml"), *given, *steps, *more, *run])
        return Trained(code, self.caplog.text + self.capsys.readouterr().err, self.folder)


@pytest.fixture
def train(
    cases: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> Trainer:
    caplog.set_level(logging.INFO, "resdet")
    return Trainer(cases, tmp_path / "run", capsys, caplog)


def test_a_size_before_exif_turns_the_photo_is_a_finding_at_the_start(train: Trainer) -> None:
    trained = train("exif_stored_size")
    assert (
        "p3.jpg) is 96×128 pixels upright (its EXIF orientation turns it), annotated as 128×96"
        in trained.text
    )
    assert trained.state["step"] == 2


@pytest.fixture
def truncated(cases: Path, tmp_path: Path) -> Path:
    """The case with the JPEG behind a sound header really cut short."""
    folder = tmp_path / "truncated"
    (folder / "images").mkdir(parents=True)
    for path in (cases / "public" / "truncated_jpeg").rglob("*.*"):
        data = path.read_bytes()
        data = data[:1200] if path.name == "p5.jpg" else data
        (folder / path.relative_to(cases / "public" / "truncated_jpeg")).write_bytes(data)
    return folder


def test_a_truncated_image_is_left_out_of_training_and_named(
    train: Trainer, truncated: Path
) -> None:
    trained = train(truncated, "train.max_steps=6")
    assert trained.state["step"] == 6
    assert "p5.jpg" in trained.text


def test_a_truncated_image_is_left_out_of_validation_and_named(
    train: Trainer, truncated: Path
) -> None:
    trained = train(truncated, val="a.json")
    assert trained.state["step"] == 2
    assert "p5.jpg" in trained.text
    assert any("eval" in json.loads(line) for line in _log(trained))


def test_above_max_broken_the_run_stops_and_has_saved(train: Trainer, truncated: Path) -> None:
    trained = train(truncated, "train.max_steps=6", "data.max_broken=0")
    assert trained.code == 2
    assert "data.max_broken" in trained.text
    assert checkpoint.load(trained.folder / "last.pt")["step"] < 6


def _log(trained: Trained) -> list[str]:
    return (trained.folder / "log.jsonl").read_text().splitlines()


def test_a_huge_image_is_a_finding_with_its_name_in_every_command(
    train: Trainer, cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = cases / "public" / "huge_png"
    trained = train("huge_png")
    assert trained.state["step"] == 2
    assert "map.png" in trained.text
    caplog.clear()
    assert main(["predict", str(RUN), str(data / "images"), "--out", str(tmp_path / "out")]) == 1
    assert "map.png" in caplog.text
    caplog.clear()
    values = [f"data.val.images={data / 'images'}", f"data.val.annotations={data / 'a.json'}"]
    assert main(["eval-coco", str(RUN), *values, "--out", str(tmp_path / "eval")]) in (0, 1)
    assert "map.png" in caplog.text


def test_crowds_alone_are_no_training_set(train: Trainer) -> None:
    trained = train("all_crowd")
    assert trained.code == 2
    assert "crowd" in trained.text.splitlines()[-1]
    assert not (trained.folder / "last.pt").exists()


def test_names_with_windows_separators_are_matched_and_counted(train: Trainer) -> None:
    trained = train("backslash_names")
    assert trained.state["step"] == 2
    assert "4 images, 12 objects" in trained.text
    assert "4×" in trained.text


@pytest.mark.parametrize("case", ["text_image_ids", "float_ids"])
def test_ids_as_text_or_floats_are_matched_and_counted(train: Trainer, case: str) -> None:
    trained = train(case)
    assert trained.state["step"] == 2
    assert "4 images, 12 objects" in trained.text
    assert "WARNING" in trained.text


def test_gray_and_colour_of_12_bits_have_one_brightness(train: Trainer, cases: Path) -> None:
    folder = cases / "public" / "bit_depth" / "images"
    means = {path.name: float(read_image(path).mean()) for path in folder.iterdir()}
    deep = {name: mean for name, mean in means.items() if not name.startswith("p")}
    assert max(deep.values()) - min(deep.values()) < 3, means
    assert min(means.values()) > 20, means
    assert train("bit_depth").state["step"] == 2


@pytest.mark.parametrize(
    ("case", "words"), [("corner_boxes", "corner"), ("fraction_boxes", "fraction")]
)
def test_boxes_in_another_format_are_a_finding_that_says_which(
    train: Trainer, case: str, words: str
) -> None:
    assert words in train(case).text


def test_images_with_one_id_give_their_objects_to_none(train: Trainer) -> None:
    trained = train("one_id_four_images")
    assert trained.code == 2
    assert "id" in trained.text.splitlines()[-1]


def test_validation_without_objects_has_no_best(train: Trainer) -> None:
    trained = train("empty_validation", val="v.json")
    assert trained.state["best"] is None
    assert not (trained.folder / "best.pt").exists()
    assert main(["predict", str(trained.folder), str(RUN), "--out", str(trained.folder / "o")]) == 2


FUZZ = ("ckpt", "coco", "config", "image", "log", "override", "png", "radiance")


@pytest.mark.parametrize("kind", FUZZ)
def test_what_once_ended_in_a_traceback_or_crash(cases: Path, tmp_path: Path, kind: str) -> None:
    files = sorted((cases / "fuzz").glob(f"{kind}*"))
    assert files
    for file in files:
        try:
            _open(kind, file, tmp_path)
        except UserError as error:
            check_message(str(error))


def test_every_kind_of_file_is_covered(cases: Path) -> None:
    names = [path.name for path in (cases / "fuzz").iterdir()]
    assert [name for name in names if not name.startswith(FUZZ)] == []


def _open(kind: str, file: Path, folder: Path) -> None:
    """What a user would do with such a file."""
    out = str(folder / file.name)
    match kind:
        case "ckpt":
            assert command(["predict", str(file), str(RUN), "--out", out]) == 2
        case "coco":
            data = [f"data.train.images={file.parent}", f"data.train.annotations={file}"]
            run = ["data.val=null", "--run-dir", out, "--check"]
            command(["train-det", str(RUN / "config.yaml"), *data, *run])
            files = ["--detections", str(file), "--annotations", str(file)]
            assert command(["eval-coco", *files, "--out", out]) == 2
        case "config":
            load_any_config(file)
        case "image" | "png" | "radiance":
            assert command(["predict", str(RUN), str(file), "--out", out]) in (0, 1, 2)
            read_image(file)
        case "log":
            run_folder = folder / f"{file.stem}_run"
            run_folder.mkdir()
            (run_folder / "log.jsonl").write_bytes(file.read_bytes())
            command(["analyze", "--curves", str(run_folder), "--out", out])
        case "override":
            _, overrides = json.loads(file.read_text())
            load_named_config("demo_nuclei", overrides, None)
