"""Run one case again and keep its files: `python -m tests.fuzz TARGET NUMBER`."""

import sys
import tempfile
from pathlib import Path

from tests.fuzz.worker import TARGETS, run_case

if len(sys.argv) != 3 or sys.argv[1] not in TARGETS or not sys.argv[2].isdigit():
    sys.exit(f"usage: python -m tests.fuzz TARGET NUMBER; targets: {', '.join(TARGETS)}")
folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{sys.argv[1]}_{sys.argv[2]}_"))
problem = run_case(sys.argv[1], int(sys.argv[2]), folder)
print(problem or "a result, or one clear error")
print(f"its files are in {folder}")
sys.exit(problem is not None)
