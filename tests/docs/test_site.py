"""The site that `make docs` builds, and the tutorial as a notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from docs import hooks
from docs.make_notebook import NOTEBOOK, make_notebook
from resdet.cli import COMMANDS
from resdet.config.describe import list_keys

ROOT = Path(__file__).resolve().parents[2]


def leaves(nav: Any) -> Iterator[str]:
    """The pages of a navigation, in its order."""
    if isinstance(nav, str):
        yield nav
    for value in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(value)


def test_the_navigation_names_every_page_once() -> None:
    nav = list(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    docs = ROOT / "docs"
    pages = {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")}
    assert sorted(nav) == sorted(pages | set(hooks.OUTSIDE.values()))


def test_blocks_are_spread() -> None:
    page = "Text:\n| a |\n|---|\n1. One\n   ```\n   x\n   - y\n   ```\n2. Two\n\n   more\n3. x\n"
    assert hooks.spread_blocks(page) == (
        "Text:\n\n| a |\n|---|\n\n1. One\n    ```\n    x\n    - y\n    ```\n"
        "2. Two\n\n    more\n\n3. x"
    )
    assert hooks.spread_blocks("End\n- a\n  b\nc\n- d\n") == "End\n\n- a\n    b\nc\n\n- d"


def test_links_lead_to_the_places_of_the_site() -> None:
    page = "[a](../../datasets/README.md#coco) [b](../run-folder.md) [c](#x) [d](https://x.y/z)"
    assert hooks.move_links(page, "docs/how-to/coco.md", "how-to/coco.md") == (
        "[a](../data-folders.md#coco) [b](../run-folder.md) [c](#x) [d](https://x.y/z)"
    )
    page = "[a](docs/results.md) [b](configs/bccd.yaml)\n```\n[c](docs/results.md)\n```\n"
    assert hooks.move_links(page, "CHANGELOG.md", "changelog.md") == (
        "[a](results.md) [b](files/configs/bccd.yaml.md)\n```\n[c](docs/results.md)\n```\n"
    )


def test_the_notebook_is_that_of_the_page() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook == make_notebook(), "run python docs/make_notebook.py"


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    for page in tmp_path.rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        loaded = (
            r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*"
        )
        assert not re.findall(loaded, html), page
        assert "<!-- keys" not in html and "<!-- api" not in html
        text = re.sub(r"(?s)<(pre|script|style)\b.*?</\1>", "", html)
        assert not re.findall(r"(?m)^(?:[-*|]|\d+\.) .*|```.*", text), f"{page}: Markdown is left"
    index = json.loads((tmp_path / "search/search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in index["docs"]}
    for name, schema in hooks.SCHEMAS.items():
        assert places >= {f"reference/{name}.html#{doc.key}" for doc in list_keys(schema)}
    assert places >= {f"reference/commands.html#{name}" for name in COMMANDS}
    assert places >= {f"reference/python.html#{home}" for home in hooks.public_names().values()}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder like a checkout, with runs of a few steps."""
    from nbclient import NotebookClient

    from resdet.cli import main

    for name in ("configs", "datasets"):
        (tmp_path / name).symlink_to(ROOT / name)
    short = [
        "train.epochs=null",
        "train.max_steps=2",
        "data.workers=0",
        "log.every=1",
        "eval.val_loss=false",
    ]
    short += [f"data.{key}=64" for key in ("test_resize.short_edge", "test_resize.max_size")]
    short += ["data.augment.resize.short_edges=[64]", "data.augment.resize.max_size=64"]
    monkeypatch.chdir(tmp_path)
    assert main(["train-det", "configs/demo_nuclei.yaml", *short]) == 0
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    notebook = make_notebook()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(
                r"(?m)^(resdet train-det mine.yaml.*)$", r"\1 " + " ".join(short), cell.source
            )
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs/mine/split.json").exists()
    assert (tmp_path / "runs/demo_nuclei/one.png").exists()
    assert (tmp_path / "runs/compared.html").stat().st_size > 10_000
