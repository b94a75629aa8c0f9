"""The prose check: every pattern refuses its example, and finds text wherever a reader meets it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.check_prose import RULES, Rule, check, findings

REFUSED = (
    "one YAML a run",
    "300 detections an image",
    "one file a command",
    "top 2000 a level",
    "two matrix products a mask",
    "a call a group",
    "images a second",
    "2.2 s an image",
    "anew",
    "learned by heart",
    "what is wrong in it is named",
    "Weights that detect",
    "the work beside others",
    "no config key begins so",
    "where its tensors do not tell all",
    "a run killed at any moment goes on where it was",
    "on a CPU to the last bit",
    "has no use for",
)
# Sentences that share words with the patterns and are fine.
ACCEPTED = (
    "one YAML per run",
    "Each run has a folder, and each folder a config.",
    "problems are reported",
    "Trained weights start at step 0. A GPU is optional.",
    "One process writes a file, the other reads a file.",
    "A box of an image in a batch",
    "2 for a box and 4 in a stage",
    "no config key starts with 'x'",
    "interrupted runs resume where they stopped, bit-exactly on CPU",
    "This depends on an image, on a class and on a run; reliability matters.",
    "the same seed makes an epoch repeatable",
    "resize to 640 pixels, then crop",
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.refused)
def test_each_rule_refuses_its_example_and_accepts_the_other(rule: Rule) -> None:
    assert rule in [broken for _, _, broken in findings(rule.refused)]
    assert not list(findings(rule.accepted))


@pytest.mark.parametrize("text", REFUSED)
def test_the_left_column_of_the_style_is_refused(text: str) -> None:
    assert list(findings(text))


@pytest.mark.parametrize("text", ACCEPTED)
def test_plain_english_is_accepted(text: str) -> None:
    assert not list(findings(text))


def test_findings_carry_the_line_of_the_text(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        '"""Ten\n\nDetections\nan image.\n"""\n'  # over a line break: line 3
        "x = 1  # starts anew\n"
        "raise_it(f'{x} was '\n    'told')\n"
        "anew = lies = x\n"  # names are code
        "print(f'{len(x)} boxes an image')\n"
        "print(f'{x} an epoch')\n"
    )
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n- a run goes\n  on\n\n```\npython anew.py  # lies there\n```\n")
    config = tmp_path / "config.yaml"
    config.write_text("# one row\n# a run\nanew: 1  # fine\n")
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in check(module)] == [
        "3",
        "6",
        "8",
        "10",
        "11",
    ]
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in check(page)] == ["3", "7"]
    assert [line.split(": ")[0].rsplit(":", 1)[1] for line in check(config)] == ["1"]


def test_the_command_fails_where_there_are_findings(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("The file lies here.\n")
    script = str(Path(__file__).with_name("check_prose.py"))
    done = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "page.md:1: 'lies'; write 'is'" in done.stdout
    (tmp_path / "page.md").write_text("The file is here.\n")
    assert subprocess.run([sys.executable, script, str(tmp_path)]).returncode == 0
