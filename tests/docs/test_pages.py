"""The pages: links and named files exist, tables are short, and every page is in the index."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from resdet.cli import COMMANDS
from resdet.config.classification import ClassificationConfig
from resdet.config.describe import list_keys
from resdet.config.detection import DetectionConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "datasets/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_CELL = 120
SCHEMAS = {"detection": DetectionConfig, "classification": ClassificationConfig}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    names = re.findall(r"(?m)^#+ (.*)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in names}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: no file {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {file.name} has no heading #{anchor}"


@each_page
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pattern = r"(?<![\w/.-])((?:configs|tools|tests|resdet)/[\w./-]+\.(?:py|yaml|md))"
    # NAME and X stand for names
    names = {name for name in re.findall(pattern, text) if not re.search(r"[A-Z]", Path(name).stem)}
    assert not {name for name in names if not (ROOT / name).exists()}


def test_modules_of_the_architecture_exist() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    packages = "|".join(path.name for path in (ROOT / "resdet").iterdir() if path.is_dir())
    names = set(re.findall(rf"\b((?:{packages})/[\w/]+\.py)", text))
    assert len(names) > 30
    assert not {name for name in names if not (ROOT / "resdet" / name).exists()}


@each_page
def test_cells_are_short(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("|"):
            for cell in line.strip("|").split("|"):
                # the address of a link does not show
                shown = re.sub(r"\]\([^)]*\)", "]", cell.strip())
                assert len(shown) <= MAX_CELL, f"{page.name}:{number}: {len(shown)} characters"


@each_page
def test_rows_have_as_many_cells_as_their_table(page: Path) -> None:
    width = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.count("|") if line.lstrip().startswith("|") else None
        if width is not None and cells is not None:
            assert cells == width, f"{page.name}:{number}: {cells - 1} cells, not {width - 1}"
        width = cells


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {
        (index.parent / target.partition("#")[0]).resolve()
        for target in re.findall(r"\]\(([^)]+)\)", index.read_text(encoding="utf-8"))
    }
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != index}
    assert not pages - linked


def command_lines(page: Path) -> list[list[str]]:
    """The `resdet …` lines of a page's code blocks, without `resdet` and without comments."""
    blocks = re.findall(r"(?ms)^ *```\n(.*?)^ *```$", page.read_text(encoding="utf-8"))
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [re.split(r"\s{2,}#", line.strip())[0] for line in lines]
    pattern = r"(?:torchrun \S+ \d+ -m )?resdet (?=[a-z])"
    return [
        shlex.split(re.sub(pattern, "", line, count=1))
        for line in commands
        if re.match(pattern, line)
    ]


@each_page
def test_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    for words in command_lines(page):
        command = COMMANDS[words[0]]
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        command.fill(parser)
        args = parser.parse_intermixed_args(words[1:])
        given = [str(item) for item in getattr(args, "arguments", [])]
        for key in [item.partition("=")[0] for item in given if "=" in item]:
            schema = SCHEMAS["classification" if words[0].endswith("cls") else "detection"]
            keys = {doc.key for doc in list_keys(schema)}
            sections = {name.rpartition(".")[0] for name in keys}
            assert key in keys | sections, f"{page.name}: no config key {key} in {' '.join(words)}"
