"""Runs cases in a worker and sees what the worker can't report: crashes, hangs and memory."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.worker import TARGETS

REPO = Path(__file__).resolve().parents[2]
HANG_S = 20.0
"""Processor time that a case may take. It may wait `WAITS` times as long, which on a machine that
does nothing else would be a hang as well."""
WAITS = 6
START_S = 60.0
"""Processor time of a worker's first case, with the imports and the stored runs it needs."""
LIMIT_MB = 4096.0
CHUNK = 250
"""Cases that a worker takes at a time."""
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
        start, used_before = time.monotonic(), _processor_s(process.pid)
        process.stdin.write(f"{target} {number}\n")
        process.stdin.flush()
        limit, largest = START_S if is_first else HANG_S, 0.0
        while not select.select([process.stdout], [], [], 0.1)[0]:
            largest = max(largest, _resident_mb(process.pid))
            passed = time.monotonic() - start
            used = _processor_s(process.pid) - used_before
            if largest > LIMIT_MB or used > limit or passed > WAITS * limit:
                what = "memory" if largest > LIMIT_MB else "hang"
                self._stop()
                problem = f"{what}: {used:.0f} of {passed:.0f} s, {largest:.0f} MB"
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


def _processor_s(pid: int) -> float:
    """Processor time of a process so far; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return 0.0


def run_cases(wanted: Iterable[tuple[str, int]]) -> list[Outcome]:
    """The outcome of each case, in order."""
    with Worker() as worker:
        return [worker.run(target, number) for target, number in wanted]


def campaign(count: int, state: Path, workers: int) -> list[Outcome]:
    """The problems among the first `count` cases, run by several workers in chunks of `CHUNK`.

    `state` gets a line of JSON per finished chunk: its first case, the problems, and the most
    seconds and MB of a case. Chunks that it has are not run again.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    lines = state.read_text().splitlines() if state.is_file() else []
    done = {record["first"]: record["problems"] for record in map(json.loads, lines)}
    todo = [first for first in range(0, count, CHUNK) if first not in done]
    lock = threading.Lock()

    def work(chunks: list[int]) -> None:
        with Worker() as worker:
            for first in chunks:
                wanted = cases(min(CHUNK, count - first), first)
                outcomes = [worker.run(target, number) for target, number in wanted]
                problems = [asdict(each) for each in outcomes if each.problem is not None]
                record = {
                    "first": first,
                    "problems": problems,
                    "seconds": max(each.seconds for each in outcomes),
                    "mb": max(each.mb for each in outcomes),
                }
                with lock, state.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                done[first] = problems

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [todo[i::workers] for i in range(workers)]))
    return [Outcome(**each) for first in range(0, count, CHUNK) for each in done[first]]
