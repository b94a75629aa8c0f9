"""Runs cases in a worker and sees what the worker can't report: crashes, hangs and memory."""

from __future__ import annotations

import json
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.worker import TARGETS

REPO = Path(__file__).resolve().parents[2]
HANG_S = 20.0
START_S = 120.0
"""What the first case may take, with the imports and the stored runs it needs."""
LIMIT_MB = 4096.0
SHARES = sum(share for _, share in TARGETS.values())


@dataclass
class Outcome:
    """How a case ended."""

    target: str
    number: int
    problem: str | None
    """A traceback, or "crash: …", "hang: …", "memory: …"; None if all was well."""
    seconds: float
    mb: float
    """The largest resident memory."""


def cases(count: int, first: int = 0) -> Iterator[tuple[str, int]]:
    """The first `count` cases from a position on: every target by its share, mixed."""
    order = [name for name, (_, share) in TARGETS.items() for _ in range(share)]
    # a fixed stride without a common divisor spreads the targets
    order = [order[i * 7 % SHARES] for i in range(SHARES)]
    seen = dict.fromkeys(TARGETS, 0)
    for position in range(first + count):
        name = order[position % SHARES]
        if position >= first:
            yield name, seen[name]
        seen[name] += 1


class Worker:
    """The process that runs cases; started again after a crash or a hang."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="resdet_fuzz_"))
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, target: str, number: int) -> Outcome:
        is_first = self._process is None
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", str(self.folder)],
                cwd=REPO,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        start = time.monotonic()
        process.stdin.write(f"{target} {number}\n")
        process.stdin.flush()
        limit, largest = START_S if is_first else HANG_S, 0.0
        while not select.select([process.stdout], [], [], 0.1)[0]:
            largest = max(largest, _resident_mb(process.pid))
            passed = time.monotonic() - start
            if largest > LIMIT_MB or passed > limit:
                what = "memory" if largest > LIMIT_MB else "hang"
                self._stop()
                problem = f"{what}: {passed:.0f} s, {largest:.0f} MB"
                return Outcome(target, number, problem, passed, largest)
        answer = process.stdout.readline()
        if not answer:
            code = process.wait()
            self._process = None
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            passed = time.monotonic() - start
            return Outcome(target, number, f"crash: {name}", passed, largest)
        problem, seconds, mb = json.loads(answer)
        if problem is None and mb > LIMIT_MB:
            problem = f"memory: {mb:.0f} MB"
        return Outcome(target, number, problem, seconds, mb)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _resident_mb(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return 0.0


def run_cases(wanted: Iterable[tuple[str, int]]) -> Iterator[Outcome]:
    """The outcome of each case, in order."""
    with Worker() as worker:
        for target, number in wanted:
            yield worker.run(target, number)


def campaign(count: int, state: Path) -> list[Outcome]:
    """The problems among the first `count` cases; continues after those that `state` has.

    `state` gets a line of JSON per case that had a problem and per 100 cases done.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    done, problems = 0, list[Outcome]()
    if state.is_file():
        for line in state.read_text().splitlines():
            record = json.loads(line)
            if "done" in record:
                done = record["done"]
            else:
                problems.append(Outcome(**record))
    with state.open("a") as file:
        for position, outcome in enumerate(run_cases(cases(count - done, done)), start=done + 1):
            if outcome.problem is not None:
                problems.append(outcome)
                file.write(json.dumps(asdict(outcome)) + "\n")
            if position % 100 == 0 or position == count:
                file.write(json.dumps({"done": position}) + "\n")
            file.flush()
    # a case that was running when the campaign was stopped is there twice
    return list({(each.target, each.number): each for each in problems}.values())
