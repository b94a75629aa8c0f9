"""The lines of a run's log.jsonl, of which some may be damaged: cut short, edited, overwritten."""

import json
from pathlib import Path
from typing import Any

LAST_STEP = 2**53
LARGEST = 1e30
"""Numbers beyond it are in no log of a network that learns, and no axis can show them."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a log.jsonl, in its order; other lines are left out.

    Raises:
        OSError: the file can't be read.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    records = (parse_record(line) for line in text.split("\n"))
    return [record for record in records if record is not None]


def parse_record(line: str) -> dict[str, Any] | None:
    """A line as a record; None unless it is a JSON object with a whole `step`.

    `eval` and `val_losses` are dicts, of which `eval` may have groups. All other values are
    numbers, or None for those that JSON lacks (NaN, infinity). Anything else is left out.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    step = record.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step <= LAST_STEP:
        return None
    nested = {key: record[key] for key in ("eval", "val_losses") if key in record}
    kept = _numbers({key: value for key, value in record.items() if key not in nested})
    for key, values in nested.items():
        if isinstance(values, dict):
            kept[key] = _numbers(values)
            groups = {name: _numbers(own) for name, own in values.items() if isinstance(own, dict)}
            kept[key] |= groups if key == "eval" else {}
    return kept


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers in a dict, and None."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            # a whole number may be too large for a float
            in_range = value is not None and value == value and abs(value) <= LARGEST
            kept[key] = value if in_range else None
    return kept
