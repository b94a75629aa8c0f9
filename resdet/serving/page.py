"""The page of a server, on which an image is dropped: one file that loads nothing else.

Style and script are those of reports (report/static/) and the files in static/ here. What the page
shows of images and classes goes into text nodes only.
"""

from functools import cache
from pathlib import Path

from resdet.report import bundle

FOLDERS = (Path(__file__).parent / "static", bundle.STATIC)
STYLES = tuple(
    f"{name}.css" for name in ("base", "tables", "controls", "charts", "viewer", "media", "serve")
)

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>resdet</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<noscript>This page needs JavaScript. Programs send images to /predict.</noscript>
<script type="module">{script}</script>
</body>
</html>
"""


@cache
def page() -> str:
    """The page, whatever the model: it asks /model."""
    return TEMPLATE.format(style=_style(), script=_script())


@cache
def content_policy() -> str:
    """The page's content security policy: its own style and script, and requests to its server."""
    more = ("connect-src 'self'", "frame-ancestors 'none'")
    return bundle.content_policy(_style(), _script(), *more)


@cache
def _style() -> str:
    return bundle.join_styles(STYLES, FOLDERS)


@cache
def _script() -> str:
    return bundle.join_scripts("serve", FOLDERS)
