"""Pages of one file: styles and scripts of static/ folders joined, and what a page may load.

Scripts are written as ES modules and joined here, since a page that is opened from disk may not
import files.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from resdet.viz.palette import COLORS

STATIC = Path(__file__).parent / "static"
SERIES = ((6, 1), (4, 0), (2, 2), (7, 5), (13, 3), (10, 8), (5, 12))
"""Rows of COLORS for the lines of charts, on light and on dark: each is legible on its ground."""

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function\*?|const|let|class) (\w+))", re.MULTILINE)


def join_styles(names: Sequence[str], folders: Sequence[Path] = (STATIC,)) -> str:
    """The palette and the files, each of the first folder that has it."""
    files = [_find(name, folders).read_text(encoding="utf-8") for name in names]
    return "\n".join((_palette(), *files))


def join_scripts(name: str, folders: Sequence[Path] = (STATIC,)) -> str:
    """NAME.js after all that it imports, each module in a scope of its own."""
    joined: dict[str, str] = {}
    _join(name, folders, joined, ())
    return "\n".join(("const modules = {};", *joined.values()))


def content_policy(style: str, script: str, *more: str) -> str:
    """A content security policy that allows this style, this script and nothing else but `more`."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data: blob:",
            f"style-src {_fingerprint(style)}",
            f"script-src {_fingerprint(script)}",
            "base-uri 'none'",
            "form-action 'none'",
            *more,
        )
    )


def _fingerprint(text: str) -> str:
    """A content security policy's name of an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _find(name: str, folders: Sequence[Path]) -> Path:
    return next(folder / name for folder in folders if (folder / name).exists())


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


def _join(
    name: str, folders: Sequence[Path], joined: dict[str, str], importing: tuple[str, ...]
) -> None:
    assert name not in importing, f"{name}.js imports itself: {' > '.join((*importing, name))}"
    if name in joined:
        return
    source = _find(f"{name}.js", folders).read_text(encoding="utf-8")
    for imported in _IMPORT.finditer(source):
        _join(imported[2], folders, joined, (*importing, name))
    exports = ", ".join(_EXPORT.findall(source))
    body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = modules.\2;\n", source))
    assert not re.search(r"^(import|export)\b", body, re.MULTILINE), f"{name}.js: see _IMPORT"
    joined[name] = f"modules.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();"
