"""PASCAL VOC metrics of a run or of result files: `python tools/eval_voc.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resdet.cli import tool

if __name__ == "__main__":
    tool(__file__, "eval-voc")
