"""Text of a user's data cannot act on a terminal, and messages stay on their lines."""

from __future__ import annotations

import ast
import os
import pickle
from pathlib import Path

import pytest

from resdet.errors import UserError, printable
from resdet.files.findings import DataError, Finding, strict_error, summarize_findings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\nerror: b\r\tc\0\x7f\x9b", r"a\nerror: b\r\tc\x00\x7f\x9b"),
        (os.fsdecode(b"caf\xe9.jpg"), r"caf\udce9.jpg"),
        ("exe\u202egpj.jpg\u2066\u200f", r"exe\u202egpj.jpg\u2066\u200f"),
        ("line\u2028\u0085\ufeff", r"line\u2028\x85\ufeff"),
        ("größer 犬 👩‍👩‍👧 C:\\temp", "größer 犬 👩‍👩‍👧 C:\\temp"),
    ],
)
def test_what_a_terminal_would_act_on_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(shown)
    shown.encode("utf-8")


def test_an_error_has_the_lines_it_was_given_and_no_others() -> None:
    error = DataError("a\nb: is \x1b[2J", "  second")
    assert str(error) == "a\\nb: is \\x1b[2J\n  second"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(UserError(*error.args)) == str(error)


def test_findings_show_names_escaped() -> None:
    findings = [Finding("a.json", f"image 'x\ny{i}'", "is \x1b[1m", "fix it") for i in range(5)]
    assert summarize_findings(findings)[0].startswith(r"a.json: 5× image 'x\ny0' is \x1b[1m, image")
    lines = str(strict_error(findings)).splitlines()
    assert lines[1] == r"  a.json: image 'x\ny0' is \x1b[1m; fix it"
    assert len(lines) == 6


def test_no_error_hides_a_newline_in_its_text(repo: Path) -> None:
    """A newline in the text of an error is shown as an escape: lines are given one by one."""
    wrong = []
    for path in (repo / "resdet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
            if name in ("UserError", "DataError", "ConfigError", "NonFiniteError"):
                texts = [each for arg in node.args for each in ast.walk(arg)]
                if any(isinstance(t, ast.Constant) and "\n" in str(t.value) for t in texts):
                    wrong.append(f"{path}:{node.lineno}")
    assert not wrong, f"give the lines one by one: {', '.join(wrong)}"
