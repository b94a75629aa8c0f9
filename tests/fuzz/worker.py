"""The process that runs cases, one per line of its input; it may crash, which its parent sees."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

from resdet.errors import UserError
from tests.fuzz.outcome import check_message

Target = Callable[[random.Random, Path], None]

TARGETS = {
    "config": ("texts.config", 35),
    "overrides": ("texts.overrides", 40),
    "annotations": ("texts.annotations", 40),
    "layouts": ("texts.layouts", 15),
    "labelme": ("formats.labelme", 10),
    "cvat": ("formats.cvat", 10),
    "masks": ("formats.masks", 14),
    "yolo": ("boxes.yolo", 12),
    "csv": ("boxes.csv", 8),
    "tables": ("formats.tables", 6),
    "results": ("texts.results", 20),
    "run_lengths": ("texts.run_lengths", 15),
    "logs": ("texts.logs", 8),
    "checkpoints": ("binaries.checkpoints", 20),
    "resume": ("binaries.resume", 4),
    "images": ("binaries.images", 39),
    "predict": ("binaries.predict", 4),
}
"""Where each target is, and its share of 300 cases."""


def load(name: str) -> Target:
    module, _, function = TARGETS[name][0].partition(".")
    target: Target = getattr(importlib.import_module(f"tests.fuzz.{module}"), function)
    return target


def run_case(name: str, number: int, folder: Path) -> str | None:
    """Run a case in an empty folder; the traceback where it ended in anything but a result or one
    clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(name)(random.Random(f"{name} {number}"), folder)
    except UserError as error:
        try:
            check_message(str(error))
        except (AssertionError, UnicodeError):
            return traceback.format_exc()
    except KeyboardInterrupt:
        raise
    except BaseException:
        return traceback.format_exc()
    return None


def _reset_peak() -> None:
    """Start counting the largest resident memory again (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The largest resident memory since the last reset, in MB."""
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Read `TARGET NUMBER` lines, answer each with a line of JSON: problem, seconds, mb."""
    answers = os.fdopen(os.dup(1), "w")
    # what the cases print belongs to nobody
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    parent = Path(tempfile.mkdtemp(prefix="resdet_fuzz_", dir=sys.argv[1]))
    for line in sys.stdin:
        name, number = line.split()
        folder = parent / f"{name}_{number}"
        folder.mkdir()
        _reset_peak()
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            problem = run_case(name, int(number), folder)
        seconds = time.process_time() - start
        print(json.dumps([problem, seconds, peak_mb()]), file=answers, flush=True)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
