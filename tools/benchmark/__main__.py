"""Compare resdet with other toolkits: `python tools/benchmark WORK --help`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from resdet.cli import Command, run_command
from tools.benchmark.options import fill_benchmark, run_benchmark

if __name__ == "__main__":
    command = Command("compare speed with other toolkits", fill_benchmark, run_benchmark)
    raise SystemExit(run_command(command, sys.argv[1:], "tools/benchmark"))
