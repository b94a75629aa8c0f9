"""The pages: links and named files exist, tables are short, and every page is in the index."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from resdet.cli import COMMANDS
from resdet.config.classification import ClassificationConfig
from resdet.config.describe import list_keys
from resdet.config.detection import DetectionConfig
from resdet.config.loading import load_any_config
from resdet.config.localization import LocalizationConfig
from tests.docs import prepared
from tests.docs.pages import (
    DIAGRAM,
    LISTING,
    PAGES,
    PROGRAMS,
    ROOT,
    blocks,
    commands,
    config_of,
    inline_commands,
    prose,
    resdet_words,
)

MAX_CELL = 120
SCHEMAS = (DetectionConfig, ClassificationConfig, LocalizationConfig)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


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


def command_lines(page: Path) -> Iterator[list[str]]:
    """The arguments of resdet's commands in blocks and sentences; shell's have none."""
    shown = [one.words for block in blocks(page) for one in commands(block)]
    for words in [*shown, *inline_commands(page)]:
        if found := resdet_words(words):
            yield [word for word in found if word != "…"]


@each_page
def test_blocks_are_understood(page: Path) -> None:
    """A block without a language shows commands, keys, an output below commands, or folders."""
    for block in blocks(page):
        place = f"{page.name}:{block.line}"
        if block.kind == "listing":
            known = f"neither commands ({', '.join(sorted(PROGRAMS))}) nor folders"
            is_known = LISTING.search(block.text) or DIAGRAM.search(block.text)
            assert is_known, f"{place}: {known}"
        elif block.kind == "json" and "…" not in block.text:
            json.loads(block.text)


@each_page
def test_commands_have_the_options_that_they_are_shown_with(page: Path) -> None:
    for words in command_lines(page):
        if words[0] == "COMMAND":
            continue
        command = COMMANDS[words[0]]
        parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
        command.fill(parser)
        given: list[str] = []
        if len(words) > 1 and (
            words[-1] not in parser._option_string_actions or "-" not in words[-1]
        ):
            args = parser.parse_intermixed_args(words[1:])
            given = [str(item) for item in getattr(args, "arguments", [])]
        check_keys([item.partition("=")[0] for item in given if "=" in item], page)


@each_page
def test_blocks_of_keys_are_of_the_schema(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "overrides":
            words = re.findall(r"(?m)(?:^|\s)([a-z][\w.]*)=", block.text)
            assert words
            check_keys(words, page)


def check_keys(names: list[str], page: Path) -> None:
    for name in names:
        assert name in all_keys(), f"{page.name}: no config key {name}"


@cache
def all_keys() -> set[str]:
    """Keys and sections of every task, with those of YAML's lists."""
    keys = {doc.key for schema in SCHEMAS for doc in list_keys(schema)}
    starts = {key[: match.start()] for key in keys for match in re.finditer(r"\.", key)}
    return keys | starts | {"data.root"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the configs that those of the pages are based on."""
    made = tmp_path_factory.mktemp("configs")
    prepared.link_configs(made)
    return made


@each_page
def test_configs_are_of_the_schema(page: Path, folder: Path) -> None:
    for block in blocks(page):
        if block.kind == "yaml":
            (folder / "mine.yaml").write_text(prepared.MINE)
            name, text = config_of(block)
            (folder / name).write_text(text)
            load_any_config(folder / name)


@each_page
def test_shells_can_read_the_scripts(page: Path) -> None:
    for block in blocks(page):
        for shown in commands(block):
            if not shown.words:
                subprocess.run(["bash", "-nc", shown.text], check=True)


@each_page
def test_targets_and_extras_exist(page: Path) -> None:
    """Of make and pip, whose commands no test runs."""
    targets = re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = page.read_text(encoding="utf-8")
    for names in re.findall(r"resdet\[([\w,]+)\]", text):
        assert set(names.split(",")) <= set(project["optional-dependencies"]), names
    for name in re.findall(r"(?m)(?:^|`)make (\w+)(?:`| RUN=|  |$)", text):
        assert name in targets, f"{page.name}: no target {name}"
