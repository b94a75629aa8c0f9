"""Every command, block of Python and config that a page shows, in a prepared folder.

The rows of `NOT_RUN` are all that is left out. `tests.docs.prepared` has the files, and
`tests.docs.runs` the runs that stand for those of the pages.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from resdet.interop import download
from tests.docs import makers, prepared, published
from tests.docs.pages import PAGES, Block, Shown, blocks, commands, config_of
from tests.docs.runs import Runs
from tests.docs.workbench import Workbench

pytestmark = pytest.mark.usefixtures("blank_figures")

OWN_TEST = "docs/extending.md"
"""The page whose examples test_extending.py runs."""
NOT_RUN = {
    r"^make ": "installs into .venv, and the tests would run themselves",
    r"^python -m venv|^\. \.venv|^pip install": "installs from a package index",
    r"^\.venv/bin/pytest": "is a test itself",
    r"^python tools/benchmark (infer|cls|gpu)": "measures for minutes",
    r"--node-rank": "needs two machines",
    r"log\.trackers=\[wandb": "needs two more packages, and test_trackers.py has their interfaces",
    r"…": "is an abbreviation",
}
ABSENT = {
    ("datasets/README.md", "coco"): ["datasets/coco"],
    ("datasets/README.md", "VOCdevkit"): ["datasets/VOCdevkit"],
    ("datasets/README.md", "bccd"): ["datasets/bccd"],
    ("datasets/README.md", "imagenet"): ["datasets/imagenet"],
    ("datasets/README.md", "cifar10, cifar100"): ["datasets/cifar10"],
}
"""Files that the commands of a section make."""
VARIANTS = {
    ("datasets/README.md", "imagenet"): {
        "datasets/imagenet/ILSVRC2012_img_train.tar": makers.imagenet_archives
    },
    ("docs/how-to/evaluation.md", "ImageNet localization"): {
        "predictions.txt": makers.text("449 5 5 40 40\n" * 6)
    },
    ("docs/how-to/formats.md", "Merge and rename classes"): {
        "my/train.json": makers.traffic,
        "my/val.json": makers.traffic,
    },
    ("docs/how-to/own-data.md", "Without a validation set"): {"my/photos": makers.patients},
}
"""Files that are something else in a section than in the others."""
NUMBER = r"[-+.e\\d]+"
OUTPUTS = {
    "train.batch_size: auto": r"auto → \d+; images/s by size: (\d+: [\d.]+(, |; ))+\d+ take "
}
"""What is printed in place of lines that depend on the machine, by their start."""

RUN = ("commands", "python", "yaml", "csv", "output")
"""Kinds of blocks."""
Section = tuple[str, str]


def shown_commands() -> list[Shown]:
    return [one for page in PAGES for block in blocks(page) for one in commands(block)]


def sections() -> dict[Section, list[Block]]:
    """The blocks that are run, by page and heading."""
    result: dict[Section, list[Block]] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.page != OWN_TEST and block.kind in RUN:
                result.setdefault((block.page, block.section), []).append(block)
    return {
        section: shown
        for section, shown in result.items()
        if any(block.kind != "commands" or not_listed(block) for block in shown)
    }


def not_listed(block: Block) -> list[Shown]:
    """The commands of a block that are run."""
    return [shown for shown in commands(block) if reason(shown) is None]


def reason(shown: Shown) -> str | None:
    """Why a command is not run; None for the others."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, shown.text)), None)


def test_no_reason_is_out_of_date() -> None:
    texts = [shown.text for shown in shown_commands()]
    for pattern in NOT_RUN:
        assert any(re.search(pattern, text) for text in texts), f"no page shows {pattern}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Runs as the pages name them, in a prepared folder, without downloads."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("prepared")
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("RESDET_CACHE", str(cache))
        patch.setattr("torch.hub.get_dir", lambda: str(cache))
        patch.setattr(download, "fetch", published.fetch)
        yield Runs(prepared.prepare(folder))
    shutil.rmtree(folder)


@pytest.fixture
def workbench(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    folder = tmp_path / "folder"
    folder.mkdir()
    prepared.link(runs.folder, folder)
    made = Workbench(folder, runs, monkeypatch)
    yield made
    made.stop_server()
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("section", sections(), ids=lambda key: f"{key[0]}:{key[1]}")
def test_the_section_runs(
    section: Section,
    workbench: Workbench,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    for name in ABSENT.get(section, []):
        workbench.remove(name)
    for name, make in VARIANTS.get(section, {}).items():
        make(workbench.remove(name))
    for block in earlier_configs(section):
        workbench.write(*config_of(block))
    start_server(section, workbench)
    printed = ""
    for block in sections()[section]:
        if block.kind == "output":
            check_output(block, printed)
        elif block.kind == "python":
            workbench.run_python(block)
        elif block.kind == "yaml":
            workbench.run_config(block)
        elif block.kind == "csv" and "x1" in block.text:
            workbench.write("shown.csv", block.text)
            workbench.run_resdet(["check-data", "photos", "shown.csv", "--no-images"])
        for shown in not_listed(block):
            workbench.run(shown)
        printed += "".join(capfd.readouterr()) + caplog.text


def start_server(section: Section, workbench: Workbench) -> None:
    """The first that the page starts, if the section asks it without starting one."""
    text = "".join(block.text for block in sections()[section])
    serving = [one for one in shown_commands() if one.text.startswith("resdet serve ")]
    own = [one for one in serving if one.block.page == section[0]]
    if "http://127.0.0.1" in text and "resdet serve" not in text and own:
        workbench.run(own[0])


def earlier_configs(section: Section) -> list[Block]:
    """The configs that a page has written before a section."""
    shown = [block for page in PAGES for block in blocks(page) if block.page == section[0]]
    start = next(i for i, block in enumerate(shown) if block.section == section[1])
    return [block for block in shown[:start] if block.kind == "yaml"]


def check_output(block: Block, printed: str) -> None:
    """Every line was printed, but for its numbers and what `…` leaves out."""
    for line in block.text.splitlines():
        pattern = re.sub(r"\d+(\\\.\d+)?(e\\?-?\d+)?", NUMBER, re.escape(line.strip()))
        pattern = pattern.replace("…", ".*")
        pattern = next((OUTPUTS[start] for start in OUTPUTS if line.startswith(start)), pattern)
        assert re.search(pattern, printed), f"{block.page}:{block.line}: not printed: {line}"
