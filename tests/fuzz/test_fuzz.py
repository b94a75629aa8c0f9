"""Broken inputs end in a result or one clear error: no traceback, crash, hang, or 4 GB."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from tests.fuzz.campaign import REPO, Outcome, campaign, cases, run_cases

NUM_CASES = 300
NUM_ALL = 50_000


def _listed(problems: Sequence[Outcome]) -> str:
    return "\n".join(
        f"python -m tests.fuzz {each.target} {each.number}\n{each.problem}"
        for each in problems[:20]
    )


def test_300_broken_inputs_end_in_a_result_or_one_clear_error() -> None:
    problems = [each for each in run_cases(cases(NUM_CASES)) if each.problem is not None]
    assert not problems, f"{len(problems)} of {NUM_CASES} cases:\n{_listed(problems)}"


@pytest.mark.fuzz
def test_50000_broken_inputs_end_in_a_result_or_one_clear_error() -> None:
    """Continues where it was stopped; remove runs/fuzz.jsonl to begin again."""
    count = int(os.environ.get("RESDET_FUZZ_CASES", NUM_ALL))
    problems = campaign(count, REPO / "runs" / "fuzz.jsonl", workers=os.cpu_count() or 1)
    assert not problems, f"{len(problems)} of {count} cases:\n{_listed(problems)}"
