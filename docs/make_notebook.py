"""Write docs/tutorial.ipynb, the tutorial as a notebook: `python docs/make_notebook.py`.

The page is the source. Its commands and its Python become cells, a block of YAML that starts with
the name of its file becomes a cell that writes it, and everything else stays text.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).resolve().parent
NOTEBOOK = FOLDER / "tutorial.ipynb"
START = """\
# The kernel is that of .venv, and step 1 was done. Commands run in the checkout.
import os
import sys
from pathlib import Path

folders = [Path.cwd(), *Path.cwd().parents]
os.chdir(next(folder for folder in folders if (folder / "configs/demo_nuclei.yaml").exists()))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])"""


def make_notebook() -> NotebookNode:
    """The notebook of the page as it is now, without outputs."""
    page = (FOLDER / "tutorial.md").read_text(encoding="utf-8")
    cells: list[NotebookNode] = []
    text = ""
    for part in re.split(r"(?ms)(^```.*?^```\n)", page):
        source = cell_source(part)
        if source is None:
            text += part
            continue
        cells += [new_markdown_cell(text.strip())] if text.strip() else []
        if not any(cell.cell_type == "code" for cell in cells):
            cells.append(new_code_cell(START))
        cells.append(new_code_cell(source))
        text = ""
    cells += [new_markdown_cell(text.strip())] if text.strip() else []
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return new_notebook(cells=cells, metadata=kernel)


def cell_source(part: str) -> str | None:
    """The code of a block; None for text and for what is not to be run."""
    block = re.fullmatch(r"(?s)```(\w*)\n(.*)```\n", part)
    if block is None:
        return None
    language, code = block[1], block[2].rstrip()
    if language == "python":
        return code
    if language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", code)):
        return f"%%writefile {name[1]}\n{code}"
    if language == "" and code.startswith("resdet "):
        return f"%%script bash -e\n{code}"
    return None


if __name__ == "__main__":
    nbformat.write(make_notebook(), NOTEBOOK)
