"""The pages, their blocks of code, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "datasets/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
SHELL = ("", "bash", "sh", "shell", "console", "text")
"""Languages of blocks that may show commands."""
PROGRAMS = {
    *("resdet", "python", "torchrun", "make", "pip", "uv", "pytest", ".venv/bin/pytest"),
    *("git", "curl", "wget", "tar", "unzip", "mkdir", "cd", "ln", "cp", "ls", "find", "for", "."),
    *("docker", "ffmpeg", "kill", "export", "cat", "echo", "printf", "ssh", "systemctl", "npx"),
}
"""What the first line of a block of commands starts with."""
SYNTAX = re.compile(r"\$\(|\$\w|\s(\||\|\||&&|&|<|>|;)(\s|$)|;\s*do\b")
"""What only a shell understands."""
DIAGRAM = re.compile("[│▼═]|──►")
LISTING = re.compile(r"(?m)^ *\S+/|^[A-Z0-9]+ = ")
"""Folders and abbreviations: blocks that show no command."""
BASES = {
    "imagenet_loc": "configs/_base_/imagenet_loc.yaml",
    "table:": "configs/finetune.yaml",
    "format:": "configs/own_data.yaml",
}
"""What a part of a config belongs to, by a word in it; the others belong to mine.yaml."""


@dataclass(frozen=True)
class Block:
    """A block of code."""

    page: str
    """Relative to the repository."""
    section: str
    """The heading above it."""
    line: int
    language: str
    text: str
    before: str
    """The paragraph above it."""
    kind: str
    """commands, overrides, output, listing, or the language."""


@dataclass(frozen=True)
class Shown:
    """A command of a block, or all lines of a block that only a shell can run."""

    block: Block
    text: str
    words: tuple[str, ...]
    """Empty for a shell's."""

    def __str__(self) -> str:
        return f"{self.block.page}:{self.block.line}: {self.text}"


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    text = page.read_text(encoding="utf-8")
    result: list[Block] = []
    section, end = "", 0
    for match in re.finditer(r"(?ms)^( *)```(\w*)\n(.*?)^ *```$", text):
        between = text[end : match.start()]
        section = (re.findall(r"(?m)^#+ (.*)$", between) or [section])[-1]
        end = match.end()
        code = re.sub(rf"(?m)^{match[1]}", "", match[3])
        has_commands = any(one.section == section and one.kind == "commands" for one in result)
        result.append(
            Block(
                page.relative_to(ROOT).as_posix(),
                section,
                text.count("\n", 0, match.start()) + 1,
                match[2],
                code,
                between.strip().split("\n\n")[-1],
                _kind(match[2], code, has_commands),
            )
        )
    return result


def _kind(language: str, code: str, has_commands: bool) -> str:
    if language not in SHELL:
        return language
    if DIAGRAM.search(code):
        return "listing"
    if any(_program(line) in PROGRAMS for line in _lines(code)):
        return "commands"
    if all(re.match(r"[a-z][\w.]*=", word) for line in _lines(code) for word in _split(line)):
        return "overrides"
    return "output" if has_commands else "listing"


def _program(line: str) -> str:
    words = line.removeprefix("$ ").split()
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words[0] if words else ""


def _lines(code: str) -> list[str]:
    """The lines, continued ones joined, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    lines = [re.split(r"(?:^|\s{2,}|\s)#\s", line)[0].strip() for line in lines]
    return [line for line in lines if line]


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation mark of an output
        return line.split()


def commands(block: Block) -> Iterator[Shown]:
    """The commands of a block; one for the whole block where it is a shell's."""
    if block.kind != "commands":
        return
    lines = [line.removeprefix("$ ") for line in _lines(block.text)]
    single = ("resdet", "python", "torchrun", "make", "pip", "pytest", ".venv/bin/pytest", "curl")
    if any(SYNTAX.search(line) or _program(line) not in single for line in lines):
        yield Shown(block, "\n".join(lines), ())
        return
    for line in lines:
        yield Shown(block, line, tuple(shlex.split(line)))


def inline_commands(page: Path) -> Iterator[tuple[str, ...]]:
    """The commands in sentences and cells, without those that only hint at arguments."""
    for span in re.findall(r"`([^`]+)`", prose(page)):
        text = " ".join(span.split())
        is_command = re.match(r"(resdet|torchrun|python (tools|datasets)/\S+\.py) \S", text)
        if is_command and "…" not in text:
            yield tuple(shlex.split(text))


def resdet_words(words: tuple[str, ...]) -> list[str]:
    """The arguments of resdet's `main` in a command line; [] where it starts something else."""
    rest = list(words)
    while rest and re.match(r"[A-Z_]+=", rest[0]):
        rest.pop(0)
    if rest[:1] == ["torchrun"]:
        places = [i for i, word in enumerate(rest) if word == "resdet" or word.endswith(".py")]
        rest = (["python"] if rest[places[0]] != "resdet" else []) + rest[places[0] :]
    if rest[:1] == ["resdet"]:
        return rest[1:]
    if rest[:3] == ["python", "-m", "resdet"]:
        return rest[3:]
    tool = re.fullmatch(r"tools/(\w+)\.py", rest[1]) if rest[:1] == ["python"] else None
    return [tool[1].replace("_", "-"), *rest[2:]] if tool else []


def config_of(block: Block) -> tuple[str, str]:
    """The file of a block of YAML and its content; a part of a config becomes a whole one."""
    if name := re.match(r"# (\S+\.yaml)\n", block.text):
        return name[1], block.text
    if "\n_base_: [_base_/" in f"\n{block.text}":
        return "configs/shown.yaml", block.text
    if re.search(r"(?m)^_base_:", block.text):
        is_named = re.search(r"(write|config)\b[^.]*`mine\.yaml`", block.before)
        return "mine.yaml" if is_named else f"shown_{block.line}.yaml", block.text
    base = next((base for word, base in BASES.items() if word in block.text), "mine.yaml")
    return f"shown_{block.line}.yaml", f"_base_: {base}\n{block.text}"
