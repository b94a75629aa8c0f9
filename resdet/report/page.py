"""Draws a report as one HTML file, which needs no network and nothing beside it.

Style and script are files in static/. The script is written as ES modules and joined here, since a
page that is opened from disk may not import files. The report is embedded as JSON; the script
puts it into text nodes only. A content security policy allows this script and nothing else.
"""

import base64
import hashlib
import html
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from resdet.errors import printable
from resdet.report.data import Report, as_plain
from resdet.viz.palette import COLORS

STATIC = Path(__file__).parent / "static"
STYLES = tuple(
    f"{name}.css" for name in ("base", "tables", "controls", "charts", "gallery", "viewer", "media")
)
SERIES = ((6, 1), (4, 0), (2, 2), (7, 5), (13, 3), (10, 8), (5, 12))
"""Rows of COLORS for the lines of charts, on light and on dark: each is legible on its ground."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|const|let|class) (\w+))", re.MULTILINE)
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
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data: blob:",
            f"style-src {_fingerprint(style)}",
            f"script-src {_fingerprint(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return TEMPLATE.format(
        policy=policy,
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


def _fingerprint(text: str) -> str:
    """A content security policy's name of an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _style() -> str:
    files = [(STATIC / name).read_text(encoding="utf-8") for name in STYLES]
    return "\n".join((_palette(), *files))


def _palette() -> str:
    """The colours of drawn images as CSS: by class, and those that are legible as lines."""
    colors = ["#" + "".join(f"{channel:02x}" for channel in color) for color in COLORS.tolist()]
    series = [
        f"--series-{i}: light-dark({colors[light]}, {colors[dark]})"
        for i, (light, dark) in enumerate(SERIES, start=1)
    ]
    classes = [f"--class-{i}: {color}" for i, color in enumerate(colors)]
    rules = [f".series-{i + 1} {{ --color: var(--series-{i + 1}) }}" for i in range(len(SERIES))]
    rules += [f".class-{i} {{ --color: var(--class-{i}) }}" for i in range(len(colors))]
    return "\n".join((f":root {{ {'; '.join(series + classes)} }}", *rules))


@cache
def _script() -> str:
    """main.js after all that it imports, each module in a scope of its own."""
    joined: dict[str, str] = {}
    _join("main", joined, ())
    return "\n".join(("const modules = {};", *joined.values()))


def _join(name: str, joined: dict[str, str], importing: tuple[str, ...]) -> None:
    assert name not in importing, f"{name}.js imports itself: {' > '.join((*importing, name))}"
    if name in joined:
        return
    source = (STATIC / f"{name}.js").read_text(encoding="utf-8")
    for imported in _IMPORT.finditer(source):
        _join(imported[2], joined, (*importing, name))
    exports = ", ".join(_EXPORT.findall(source))
    body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = modules.\2;\n", source))
    assert not re.search(r"^(import|export)\b", body, re.MULTILINE), f"{name}.js: see _IMPORT"
    joined[name] = f"modules.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();"
