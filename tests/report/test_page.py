"""The page's text: safe whatever is in a report, complete in itself, legible by computation."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from resdet.report import page
from resdet.report.bundle import SERIES, STATIC
from resdet.report.data import Report, RunReport, Table
from resdet.report.page import render
from resdet.viz.palette import COLORS
from tests.report import example

TEXT, GRAPHICS = 4.5, 3.0
"""Least contrast by WCAG 2.2, AA: criteria 1.4.3 and 1.4.11."""


class Elements(HTMLParser):
    """Tags of a page, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def data_of(text: str) -> dict[str, Any]:
    return json.loads(Elements(text).scripts[0])


@pytest.fixture(scope="module")
def text() -> str:
    return render(example.detection())


def test_names_do_not_break_out_of_the_page(text: str) -> None:
    broken = render(example.hostile())
    broken.encode("utf-8")
    tags = [tag for tag, _ in Elements(broken).tags]
    assert tags == [tag for tag, _ in Elements(text).tags]
    assert tags.count("script") == 2
    # the parser that closes at "</script" and the one that enters "<!--" see neither
    embedded = Elements(broken).scripts[0].strip()
    assert not re.search("[<>&\x00-\x1f\x7f-\uffff]", embedded)
    names = data_of(broken)["runs"][0]["class_names"]
    assert names[:2] == example.HOSTILE[:2]
    assert names[2].startswith("\\x1b[31mred") and "\\u202e" in names[2]


def test_page_needs_nothing_from_outside(text: str) -> None:
    for tag, attributes in Elements(text).tags:
        assert tag not in {"link", "iframe", "img", "object", "base"}
        assert not {"src", "href"} & set(attributes)
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|\burl\(", without_namespace)
    assert "default-src 'none'" in text


def test_script_joins_each_module_once_after_its_imports(text: str) -> None:
    script = Elements(text).scripts[1]
    order = re.findall(r"^modules\.(\w+) = ", script, re.MULTILINE)
    assert sorted(order) == sorted(path.stem for path in STATIC.glob("*.js"))
    assert order[-1] == "main"
    used = re.findall(r"modules\.(\w+);$", script, re.MULTILINE)
    assert set(used) == set(order) - {"main"}
    assert "innerHTML" not in script and "</script" not in script


def test_modules_are_small_and_all_styles_are_used() -> None:
    for path in STATIC.iterdir():
        assert len(path.read_text().splitlines()) <= 400, path.name
    assert sorted(path.name for path in STATIC.glob("*.css")) == sorted(page.STYLES)


def test_json_is_what_the_report_says(text: str) -> None:
    report = example.detection()
    plain = data_of(text)
    assert plain["title"] == report.title
    run = plain["runs"][0]
    assert run["metrics"]["rows"] == report.runs[0].metrics.rows
    assert run["metrics"]["formats"] == ["text"] + ["fraction"] * 7
    assert run["per_class"][0]["formats"] == ["text", "count", "fraction", "fraction"]


def test_numbers_that_json_does_not_have_are_missing_values() -> None:
    cells = [["a", 1.0, 87.5, 3.0], ["b", float("nan"), float("inf"), 4.5]]
    table = Table("t", ["name", "AP", "top1_%", "ratio"], cells)
    run = RunReport("r", "runs/r", "detection", [], [], metrics=table)
    found = data_of(render(Report("t", "", [run])))["runs"][0]["metrics"]
    assert found["rows"][1] == ["b", None, None, 4.5]
    assert found["formats"] == ["text", "fraction", "percent", "number"]


def test_formats_of_a_table_without_rows() -> None:
    run = RunReport("r", "runs/r", "detection", [], [], metrics=Table("t", ["name", "AP"], []))
    found = data_of(render(Report("t", "", [run])))["runs"][0]["metrics"]
    assert found["formats"] == ["text", "text"]


def test_page_is_a_third_larger_than_its_pictures() -> None:
    report = example.detection(num_pictures=1)
    large = dataclasses.replace(report.pictures[0], jpeg=bytes(3_000_000))
    assert len(render(dataclasses.replace(report, pictures=[large]))) < 4_200_000


# Contrast


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2.2 defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def colors(text: str) -> dict[str, tuple[str, str]]:
    """(light, dark) of each variable."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", text)
    return {name: (light, dark) for name, light, dark in pairs}


def test_contrast_is_what_wcag_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_graphics_are_legible(colors: dict[str, tuple[str, str]], theme: int) -> None:
    grounds = ("paper", "surface", "sunken", "note")
    pairs = [(name, ground, TEXT) for name in ("ink", "muted") for ground in grounds]
    pairs += [(name, "surface", TEXT) for name in ("accent", "good", "bad")]
    pairs += [(name, "sunken", TEXT) for name in ("accent", "good", "bad")]
    pairs += [("on-accent", "accent", TEXT), ("ink", "accent-soft", TEXT)]
    # edges of controls, and lines of charts
    pairs += [("edge", ground, GRAPHICS) for ground in ("paper", "surface")]
    pairs += [(f"series-{i + 1}", "surface", GRAPHICS) for i in range(len(SERIES))]
    short = [
        f"{name} on {ground}: {contrast(colors[name][theme], colors[ground][theme]):.2f}"
        for name, ground, least in pairs
        if contrast(colors[name][theme], colors[ground][theme]) < least
    ]
    assert not short


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_numbers_in_the_confusion_matrix_are_legible(
    text: str, colors: dict[str, tuple[str, str]], theme: int
) -> None:
    pair = r"light-dark\((#\w{6}), (#\w{6})\)"
    shades = {int(i): both for i, *both in re.findall(rf"\.shade-(\d) {{\s*--shade: {pair}", text)}
    inks = re.findall(r"((?:\.shade-\d,?\s+)+){\s+color: ([^;]+);", text)
    seen = set()
    for selectors, value in inks:
        found = re.findall(r"#\w{6}", value)
        ink = (found or list(colors["ink"]))[theme]
        for i in map(int, re.findall(r"\d", selectors)):
            assert contrast(ink, shades[i][theme]) >= TEXT, (i, value)
            seen.add(i)
    assert seen == set(shades) == set(range(9))


def test_palette_is_that_of_drawn_images(text: str) -> None:
    for i, color in enumerate(COLORS.tolist()):
        assert f"--class-{i}: #{bytes(color).hex()}" in text


def test_style_stays_in_its_folder() -> None:
    assert Path(page.__file__).parent == STATIC.parent
