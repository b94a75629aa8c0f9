"""Answer HTTP requests with predictions: `python tools/serve.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resdet.cli import tool

if __name__ == "__main__":
    tool(__file__, "serve")
