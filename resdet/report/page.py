"""Draws a report as one HTML file, which needs no network and nothing beside it.

Style and script are files in static/, which bundle.py joins. The report is embedded as JSON; the
script puts it into text nodes only. A content security policy allows this script and nothing else.
"""

import html
import json
import math
from functools import cache
from typing import Any

from resdet.errors import printable
from resdet.report.bundle import content_policy, join_scripts, join_styles
from resdet.report.data import Report, as_plain

STYLES = tuple(
    f"{name}.css" for name in ("base", "tables", "controls", "charts", "gallery", "viewer", "media")
)
# Bytes and numbers, which hold nothing to clean and are most of a page
_AS_THEY_ARE = frozenset({"jpeg", "path"})

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<noscript>This page draws its charts with JavaScript, which is switched off.</noscript>
<script type="application/json" id="report-data">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def render(report: Report) -> str:
    """The page as text that encodes as UTF-8; about 4/3 of its pictures' bytes and 100 kB."""
    style, script = _style(), _script()
    return TEMPLATE.format(
        policy=content_policy(style, script),
        title=html.escape(printable(report.title)),
        style=style,
        script=script,
        data=_as_json(report),
    )


def _as_json(report: Report) -> str:
    """JSON that no HTML parser can see an end in: < > & and all beyond ASCII are escaped."""
    text = json.dumps(_for_page(as_plain(report)), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _for_page(value: Any) -> Any:
    """Text without hidden characters, numbers that JSON has, and tables with `formats`."""
    if isinstance(value, str):
        return printable(value, keep="\n")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_for_page(each) for each in value]
    if isinstance(value, dict):
        plain = {
            key: each if key in _AS_THEY_ARE else _for_page(each) for key, each in value.items()
        }
        if "columns" in value and "rows" in value:
            columns = zip(value["columns"], zip(*value["rows"], strict=True), strict=False)
            plain["formats"] = [_format(name, list(cells)) for name, cells in columns] or [
                "text" for _ in value["columns"]
            ]
        return plain
    return value


def _format(column: str, cells: list[Any]) -> str:
    """How the page writes a column's numbers. JavaScript cannot tell 1.0 from 1, we can."""
    present = [each for each in map(_for_page, cells) if each is not None]
    if any(isinstance(each, str) for each in present):
        return "text"
    if present and all(isinstance(each, int) for each in present):
        return "count"
    if column.endswith(("%", "_percent")):
        return "percent"
    return "fraction" if all(abs(each) <= 1 for each in present) else "number"


@cache
def _style() -> str:
    return join_styles(STYLES)


@cache
def _script() -> str:
    return join_scripts("main")
