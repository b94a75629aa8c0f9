"""What `make docs` does to the pages, which are written for a code host, before mkdocs reads them.

Files of the repository that a page links to become pages themselves, lists are indented as
Python-Markdown wants them, and the reference is filled in from the schema, the options of the
commands and the docstrings. A comment such as `<!-- keys: detection -->` marks its place.
"""

from __future__ import annotations

import argparse
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import resdet
from resdet.cli import COMMANDS
from resdet.config.classification import ClassificationConfig
from resdet.config.describe import KeyDoc, list_keys
from resdet.config.detection import DetectionConfig
from resdet.config.localization import LocalizationConfig

ROOT = Path(__file__).resolve().parent.parent
SCHEMAS = {
    "detection": DetectionConfig,
    "classification": ClassificationConfig,
    "localization": LocalizationConfig,
}
# Pages from outside docs/, by their place in the site; other linked files are in files/.
OUTSIDE = {"CHANGELOG.md": "changelog.md", "datasets/README.md": "data-folders.md"}
# Beside the names of resdet.__all__: what its functions return.
RETURNED = {
    "Model.predict": "resdet.models.predict.Predictor.predict",
    "Classification": "resdet.structures.Classification",
}
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_config(config: MkDocsConfig) -> None:
    """Anchors of headings are those of code hosts."""
    config.mdx_configs["toc"]["slugify"] = slug


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the linked files of the repository that are outside docs/."""
    pages = [ROOT / "docs" / file.src_uri for file in files.documentation_pages()]
    pages += [ROOT / name for name in OUTSIDE]
    outside = {name for page in pages for name in linked(page) if not name.startswith("docs/")}
    for name in sorted(outside | set(OUTSIDE)):
        text = (ROOT / name).read_text(encoding="utf-8")
        if not name.endswith(".md"):
            text = f"# {name}\n\n```{Path(name).suffix.strip('.')}\n{text}```\n"
        files.append(File.generated(config, place(name), content=text))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page as the site shows it."""
    places = {place(name): name for name in OUTSIDE}
    uri = page.file.src_uri
    name = places.get(uri, f"docs/{uri}")
    text = spread_blocks(move_links(markdown, name, uri))
    return re.sub(r"<!-- (\w+)(?:: (\w+))? -->", lambda match: fill(match[1], match[2]), text)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Leave single keys out of the list of contents beside the page."""
    if page.file.src_uri.removeprefix("reference/").removesuffix(".md") in SCHEMAS:
        for title in page.toc:
            for section in title.children:
                section.children = []


def slug(heading: str, separator: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def place(name: str) -> str:
    """Where a file of the repository is in the site, as the path of its source."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return OUTSIDE.get(name, f"files/{name}" if name.endswith(".md") else f"files/{name}.md")


def linked(page: Path) -> Iterator[str]:
    """The files that a page links to, relative to the repository."""
    folder = page.parent.relative_to(ROOT).as_posix()
    for part, is_code in parts(page.read_text(encoding="utf-8")):
        for _, target, _ in [] if is_code else LINK.findall(part):
            file = target.partition("#")[0]
            if file and not re.match(r"[a-z]+:", file):
                yield posixpath.normpath(posixpath.join(folder, file))


def move_links(markdown: str, name: str, uri: str) -> str:
    """The page with links that lead to the places of the site; `name` is its file in the
    repository, `uri` its place."""

    def moved(match: re.Match[str]) -> str:
        file, mark, anchor = match[2].partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        target = place(posixpath.normpath(posixpath.join(posixpath.dirname(name), file)))
        return f"]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{mark}{anchor})"

    return "".join(part if is_code else LINK.sub(moved, part) for part, is_code in parts(markdown))


def parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a block of code."""
    for index, part in enumerate(re.split(r"(?ms)(^ *```.*?^ *```$)", markdown)):
        yield part, index % 2 == 1


def spread_blocks(markdown: str) -> str:
    """The text as Python-Markdown wants it: list items are indented by four columns, and tables,
    lists and what follows an item of several blocks start after an empty line.
    """
    lines: list[str] = []
    width, is_code, has_blocks = 0, False, False
    for line in markdown.splitlines():
        item = None if is_code else re.match(r"(?:[-*]|\d+\.) ", line)
        if item:
            if (not width or has_blocks) and lines and lines[-1].strip():
                lines.append("")
            width, has_blocks = item.end(), False
        elif line.strip() and len(line) - len(line.lstrip()) < width:
            # a line at the margin ends the list, unless it continues a paragraph of the item
            width = 0
        elif width and line.strip():
            line = " " * (4 - width) + line
        elif width:
            has_blocks = True
        if line.lstrip().startswith("|") and lines and not is_code:
            above = lines[-1].strip()
            lines += [""] if above and not above.startswith("|") else []
        is_code ^= line.lstrip().startswith("```")
        lines.append(line)
    return "\n".join(lines)


def fill(kind: str, argument: str | None) -> str:
    """The text for a mark of the reference."""
    makers: dict[str, Callable[[], str]] = {
        "keys": lambda: explain_schema(SCHEMAS[argument or ""]),
        "commands": explain_commands,
        "api": explain_api,
    }
    return makers[kind]()


def explain_schema(schema: Any) -> str:
    """A heading per section and per key, so that the search finds each."""
    sections: dict[str, list[str]] = {}
    for doc in list_keys(schema):
        sections.setdefault(section_of(doc), []).append(explain_key(doc))
    return "\n\n".join(
        f"## {section}\n\n" + "\n\n".join(keys) for section, keys in sections.items()
    )


def section_of(doc: KeyDoc) -> str:
    """The heading over a key: its first two names, as `data.augment`, or one, as `optim`."""
    names = doc.key.replace("[]", "").split(".")[:-1]
    return ".".join(names[:2]) or "Top level"


def explain_key(doc: KeyDoc) -> str:
    default = "" if doc.default == "(required)" else f" · default `{doc.default}`"
    required = "required · " if doc.default == "(required)" else ""
    meaning = re.sub(r"([*_<\[])", r"\\\1", doc.doc) if "`" not in doc.doc else doc.doc
    return f"### `{doc.key}` {{ #{doc.key} }}\n\n{required}{doc.expects}{default}\n\n{meaning}"


def explain_commands() -> str:
    """A heading per command, with its usage."""
    text = []
    for name, command in COMMANDS.items():
        parser = argparse.ArgumentParser(
            prog=f"resdet {name}", formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.fill(parser)
        text.append(f"## {name}\n\n{command.summary}\n\n```text\n{parser.format_help()}```")
    return "\n\n".join(text)


def public_names() -> dict[str, str]:
    """What the reference of Python shows, and where it is defined."""
    homes = {f"resdet.{name}": f"{resdet._HOMES[name]}.{name}" for name in sorted(resdet._HOMES)}
    # not the module of the same name
    homes["resdet.build"] = "resdet.factory.build.build"
    return homes | RETURNED


def explain_api() -> str:
    """The lines that mkdocstrings replaces by signatures and docstrings."""
    return "\n\n".join(
        f"::: {home}\n    options:\n      heading: {name}\n      toc_label: {name}"
        for name, home in public_names().items()
    )
