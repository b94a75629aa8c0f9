"""The page in Chromium: every control is used, with mouse and keyboard.

Needs `chromium` (or Google Chrome) on PATH, such as Debian's package, and playwright, which drives
it. The browser is started once, and costs about 2 of the 7 seconds.
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from resdet import cli
from resdet.report.data import Report
from resdet.report.page import render
from tests.report import example

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = os.environ.get("RESDET_AXE")
DESKTOP, PHONE = 1440, 390
CALM = {"viewport": {"width": DESKTOP, "height": 900}, "reduced_motion": "reduce"}

REPORTS = {
    "detection": example.detection,
    "many": lambda: example.detection(num_classes=80, num_pictures=2),
    "comparison": example.comparison,
    "classification": example.classification,
    "hostile": example.hostile,
    "bare": example.bare,
}


class Opened:
    """Pages of reports on disk; none may log, fail, or ask for anything but itself."""

    def __init__(self, browser: "Browser", folder: Path) -> None:
        self.browser, self.folder = browser, folder
        self.pages: dict[str, Page] = {}
        self.problems: list[str] = []
        self.links = 0

    def __call__(self, name: str, link: str = "#", **options: Any) -> "Page":
        """The page of a report of example.py at a link; it is loaded once for all tests."""
        if name not in self.pages:
            self.pages[name] = self.load(name, **options)
        page = self.pages[name]
        self.links += 1
        page.evaluate(
            "link => new Promise((done) => {"
            " addEventListener('hashchange', done, {once: true}); location.hash = link; })",
            f"{link}{'&' if '?' in link else '?'}test={self.links}",
        )
        return page

    def load(self, name: str, **options: Any) -> "Page":
        path = self.folder / f"{name}.html"
        if not path.exists():
            made: Report = REPORTS[name]()
            path.write_text(render(made), encoding="utf-8")
        page = self.browser.new_page(**{**CALM, **options})
        page.set_default_timeout(5000)
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.see(request.url))
        page.goto(path.as_uri())
        return page

    def see(self, url: str) -> None:
        if not url.startswith(("blob:", "data:", self.folder.as_uri())):
            self.problems.append(f"asked for {url}")


@pytest.fixture(scope="module")
def opened(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(browser, tmp_path_factory.mktemp("pages"))


@pytest.fixture(autouse=True)
def no_problems(opened: Opened) -> Iterator[None]:
    yield
    assert not opened.problems


def outlines(page: "Page", kind: str = "") -> int:
    """Marks that the viewer draws."""
    return page.locator(f".viewer .outline{kind}").count()


def status(page: "Page") -> str:
    return page.locator(".gallery [role=status]").inner_text()


def position(page: "Page") -> str:
    return page.locator(".position").inner_text()


def test_sections_menu_and_headings(opened: Opened) -> None:
    page = opened("detection")
    assert page.locator("h1").inner_text() == "bccd_mask_r50"
    titles = page.locator("main h2").all_inner_texts()
    assert titles == page.locator("nav a").all_inner_texts()
    assert titles == [
        "Overview", "Pictures", "Errors", "Metrics", "Classes", "Precision and recall",
        "Score threshold", "Confusion", "Calibration", "Breakdowns", "Training", "Data", "Config",
    ]  # fmt: skip
    levels = [int(each[1]) for each in page.locator("h1, h2, h3, h4").evaluate_all(
        "all => all.map((each) => each.tagName)")]  # fmt: skip
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert page.locator("header, nav, main").count() == 3
    page.locator("nav a", has_text="Calibration").click()
    assert page.url.endswith("#calibration")
    assert page.evaluate("document.activeElement.id") == "calibration"
    page.locator("nav a", has_text="Data").click()
    page.go_back()
    page.wait_for_function("document.activeElement.id === 'calibration'")


def test_tabs_pictures_and_their_keys(opened: Opened) -> None:
    page = opened("detection")
    tab = page.get_by_role("tab")
    assert tab.all_inner_texts() == [
        "Worst images12", "False positives24", "Missed objects12", "Likely label errors0"
    ]  # fmt: skip
    assert status(page) == "12 shown; the page has the first 12 of 73 at score 0.42."
    assert position(page) == "1 of 12"
    page.get_by_role("button", name="Next").click()
    page.keyboard.press("ArrowRight")
    assert position(page) == "3 of 12"
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Previous").click()
    assert position(page) == "1 of 12"
    assert page.get_by_role("button", name="Previous").is_disabled()

    tab.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert tab.nth(1).get_attribute("aria-selected") == "true"
    assert position(page) == "1 of 24"
    page.locator(".strip button").nth(5).click()
    assert position(page) == "6 of 24"
    assert page.url.endswith("#pictures?tab=false_positives&item=6")
    assert "Bkg error with score 0.54" in page.locator(".details").inner_text()
    assert outlines(page, ".focus") == 1

    tab.nth(3).click()
    assert page.locator(".empty").inner_text() == "There is nothing to show in this tab."
    assert not page.locator(".viewer").is_visible()


def test_marks_are_switched_by_boxes_and_keys(opened: Opened) -> None:
    page = opened("detection")
    assert outlines(page, ".truth") == outlines(page, ".detection") == 4
    assert outlines(page, ".mask") == 8
    for key, label, left in (("g", "Ground truth", 4), ("d", "Detections", 4)):
        page.keyboard.press(key)
        box = page.get_by_role("checkbox", name=label)
        assert not box.is_checked()
        assert outlines(page) == left
        box.check()
        assert outlines(page) == 8
    page.keyboard.press("m")
    assert outlines(page, ".mask") == 0
    page.keyboard.press("l")
    assert page.locator(".viewer .outline text").count() == 8
    assert "show=gdl" in page.url
    page.get_by_label("Colors by").select_option("class")
    assert page.locator(".viewer .outline.class-0").count() > 0

    page.locator(".keys summary").click()
    page.get_by_label("Use these keys").uncheck()
    page.keyboard.press("g")
    assert page.get_by_role("checkbox", name="Ground truth").is_checked()
    page.get_by_label("Use these keys").check()


def test_filters_and_slider_change_what_is_counted(opened: Opened) -> None:
    page = opened("detection", "#pictures?tab=false_positives")
    page.get_by_label("Outcome").select_option("Loc")
    assert status(page) == "12 of 24 match the filters."
    assert page.get_by_role("tab").nth(1).inner_text() == "False positives12"
    page.get_by_label("Class", exact=True).select_option(label="WBC")
    assert status(page) == "4 of 24 match the filters."
    slider = page.locator("input[type=range]")
    slider.fill("0.69")
    # scores are .70 less .004 per picture: the third picture and those after it are below
    assert status(page) == "1 of 24 match the filters."
    assert page.locator("output").inner_text() == "0.69"
    slider.press("ArrowRight")
    assert page.locator("output").inner_text() == "0.70"
    slider.fill("0.99")
    words = page.locator(".empty p").inner_text()
    assert words.endswith("matches the filters: class WBC, outcome Loc, score from 0.99.")
    page.get_by_role("button", name="Reset filters").click()
    assert status(page) == "24 shown."
    assert slider.input_value() == "0.42"


def test_objects_are_missed_above_the_score_of_their_detection(opened: Opened) -> None:
    page = opened("detection")
    outcomes = page.locator(".outcomes li")
    assert [each.split("\n")[:2] for each in outcomes.all_inner_texts()] == [
        ["2", "found"], ["2", "missed"], ["2", "correct"], ["1", "Loc"], ["1", "Bkg"]
    ]  # fmt: skip
    page.locator("input[type=range]").fill("0.95")
    assert [each.split("\n")[:2] for each in outcomes.all_inner_texts()] == [
        ["1", "found"], ["3", "missed"], ["1", "correct"]
    ]  # fmt: skip
    assert outlines(page, ".outcome-missed") == 3
    assert "At score 0.95:" in page.locator(".details").inner_text()
    assert status(page).endswith(
        "12 of 73 at score 0.42. The list was chosen at score 0.42: what only another score would "
        "add is not in it."
    )


def test_an_object_leaves_the_missed_ones_below_the_score_that_finds_it(
    browser: "Browser", tmp_path: Path
) -> None:
    made = example.detection(num_pictures=2)
    first = made.pictures[0]
    found = replace(first.truths[3], status="found", partner=3)
    made.pictures[0] = replace(first, truths=[*first.truths[:3], found])
    (tmp_path / "found.html").write_text(render(made), encoding="utf-8")
    page = Opened(browser, tmp_path).load("found")
    tab = page.get_by_role("tab", name="Missed objects")
    for score, shown in (("0.6", 2), ("0.3", 1)):
        page.locator("input[type=range]").fill(score)
        assert tab.inner_text() == f"Missed objects{shown}"


def test_last_label_of_a_histogram_ends_inside_it(opened: Opened) -> None:
    page = opened.load("detection", viewport={"width": PHONE, "height": 900})
    ends = page.locator("#data .canvas svg").evaluate_all(
        "all => all.map((svg) => svg.getBoundingClientRect().right - Math.max("
        " ...[...svg.querySelectorAll('.tick')].map((t) => t.getBoundingClientRect().right)))"
    )
    assert len(ends) == 2 and min(ends) >= 0
    page.close()


def test_zoom_and_moving(opened: Opened) -> None:
    page = opened("detection", "#pictures?tab=missed")
    picture = page.locator(".picture")
    whole = "0 0 320 240"
    assert picture.get_attribute("viewBox") == whole
    page.get_by_role("button", name="Zoom in").click()
    zoomed = picture.get_attribute("viewBox")
    assert zoomed != whole
    picture.hover()
    page.mouse.down()
    page.mouse.move(600, 500)
    page.mouse.up()
    assert picture.get_attribute("viewBox") != zoomed
    page.keyboard.press("0")
    assert picture.get_attribute("viewBox") == whole
    page.keyboard.press("z")
    x, y, w, h = map(float, picture.get_attribute("viewBox").split())
    x1, y1, x2, y2 = example.SHAPES[3]
    assert x <= x1 and y <= y1 and x + w >= min(x2, 320) and y + h >= min(y2, 240)
    page.get_by_role("button", name="Zoom out").click()
    page.get_by_role("button", name="Whole picture").click()
    assert picture.get_attribute("viewBox") == whole
    page.get_by_text("Objects and detections").click()
    page.locator(".details tbody tr").first.focus()
    assert page.locator(".outline.lit").count() == 1
    page.locator(".viewer .outline .over").first.hover(force=True)
    assert re.match("(Ground truth|Detection): ", page.locator(".pane .tip").inner_text())


def test_a_link_opens_the_same_view(opened: Opened) -> None:
    link = "#pictures?tab=false_positives&item=4&error=Bkg&score=0.5&colors=class&show=d"
    page = opened("detection", link)
    assert page.locator("[aria-selected=true]").inner_text().startswith("False positives")
    assert position(page) == "2 of 12"
    assert page.get_by_label("Outcome").input_value() == "Bkg"
    assert not page.get_by_role("checkbox", name="Ground truth").is_checked()
    assert page.get_by_role("checkbox", name="Detections").is_checked()
    assert position(opened("detection", "#pictures?tab=missed&item=2")) == "2 of 12"
    # the thumbnail of a late item is scrolled to
    page = opened("detection", "#pictures?tab=false_positives&item=24")
    inside = """() => {
      const strip = document.querySelector(".strip").getBoundingClientRect();
      const thumb = document.querySelector(".strip [aria-current=true]").getBoundingClientRect();
      return thumb.top >= strip.top && thumb.bottom <= strip.bottom + 1;
    }"""
    assert page.evaluate(inside)
    # what does not exist is as at the start
    page = opened("detection", "#pictures?tab=nothing&item=x&class=99&error=none&score=7&run=8")
    assert page.locator("[aria-selected=true]").inner_text() == "Worst images12"
    assert position(page) == "1 of 12"


def test_errors_and_classes_lead_to_their_pictures(opened: Opened) -> None:
    page = opened("detection")
    page.get_by_role("button", name="Show pictures of Bkg errors").click()
    assert page.url.endswith("#pictures?tab=false_positives&item=2&error=Bkg")
    assert position(page) == "1 of 12"
    page.get_by_role("button", name="Show pictures of Miss errors").click()
    assert page.locator("[aria-selected=true]").inner_text() == "Missed objects12"
    page.locator("#classes").get_by_role("button", name="Platelets").click()
    assert page.get_by_label("Class", exact=True).input_value() == "2"


def test_charts_by_keyboard_and_mouse(opened: Opened) -> None:
    page = opened("detection")
    curve = page.locator("#confidence [role=slider]")
    curve.focus()
    page.keyboard.press("End")
    assert curve.get_attribute("aria-valuetext") == "score 1: precision 1, recall 0, F1 0.3554"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#confidence .tip").inner_text().startswith("score 0.98")
    page.keyboard.press("Escape")
    assert not page.locator("#confidence .tip").is_visible()
    page.locator("#confidence .key", has_text="recall").click()
    assert page.locator("#confidence path.line").count() == 2
    page.locator("#confidence").get_by_text("Values as a table").click()
    page.locator("#confidence details tbody").wait_for()
    assert page.locator("#confidence details tbody tr").count() == 153
    for section in ("data", "calibration", "precision-recall", "training"):
        chart = page.locator(f"#{section} [role=slider]").first
        chart.hover()
        page.locator(f"#{section} .tip").first.wait_for()


def test_tables_sort_and_the_matrix_reads_by_keys(opened: Opened) -> None:
    page = opened("detection")
    classes = page.locator("#classes")
    classes.get_by_role("button", name="AP", exact=True).click()
    values = [float(each) for each in classes.locator("td.with-bar").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    classes.get_by_role("button", name="AP", exact=True).click()
    assert classes.locator("[aria-sort]").get_attribute("aria-sort") == "ascending"

    cell = page.locator(".matrix td").first
    cell.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".reader").inner_text().startswith("True RBC, predicted WBC: ")
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert page.locator(".reader").inner_text().startswith("True WBC, predicted background: ")


@pytest.mark.slow
def test_many_classes(opened: Opened) -> None:
    page = opened("many")
    page.locator("#classes input[type=search]").fill("number 7")
    assert page.locator("#classes tbody tr").count() == 11
    page.locator("#classes input[type=search]").fill("zebra")
    assert page.locator("#classes tbody").inner_text() == "No row has this text."
    page.get_by_label("In front").select_option(label="class number 40")
    chart = page.locator("#precision-recall [role=slider]")
    assert "class number 40" in chart.get_attribute("aria-valuetext")
    assert page.locator(".matrix td").count() == 81 * 81
    assert page.evaluate("document.documentElement.scrollWidth") == DESKTOP


def test_runs_side_by_side(opened: Opened) -> None:
    page = opened("comparison")
    assert "better" in page.locator("#comparison").inner_text()
    page.get_by_role("tab", name="Changed").click()
    assert page.locator(".panes figcaption").all_inner_texts() == [
        "bccd_r50_0, scores from 0.42", "bccd_r50_1, scores from 0.42"
    ]  # fmt: skip
    assert outlines(page) == 16
    page.keyboard.press("+")
    views = page.locator(".panes .picture").evaluate_all(
        "all => all.map((each) => each.getAttribute('viewBox'))"
    )
    assert views[0] == views[1] != "0 0 320 240"
    page.get_by_role("radio", name="bccd_r50_1").check(force=True)
    assert "run=1" in page.url
    assert page.locator("[aria-selected=true]").inner_text().startswith("Worst images")
    assert outlines(page) == 8


def test_classifier(opened: Opened) -> None:
    page = opened("classification")
    assert "bees 87.1 %" in page.locator(".details").inner_text()
    assert page.get_by_label("Ground truth").count() == 0
    assert page.locator("input[type=range]").count() == 0
    page.get_by_label("Class", exact=True).select_option(label="bees")
    assert status(page).startswith("2 of 5 match the filters")
    assert page.locator(".tiles dd").all_inner_texts() == ["94.1", "0.187"]


def test_sections_without_content_are_left_out(opened: Opened) -> None:
    page = opened("bare")
    assert page.locator("main h2").all_inner_texts() == ["Overview", "Metrics"]
    assert page.locator(".notes").inner_text() == "There are no predictions."
    assert page.locator("#metrics td").all_inner_texts() == ["–", "12"]


def test_hostile_names_are_text(opened: Opened) -> None:
    page = opened("hostile")
    assert page.locator("h1").inner_text() == example.HOSTILE[0]
    assert page.evaluate("window.stolen") is None
    assert page.locator("main img, main script").count() == 0


def test_checked_data(opened: Opened, repo: Path, tmp_path: Path) -> None:
    """What `check-data --html` writes, of photos of which one is dark and one has no width."""
    source = repo / "tests/data/formats"
    shutil.copytree(source / "images", tmp_path / "images")
    dark = tmp_path / "images/photo_05.png"
    Image.open(dark).point(lambda value: value // 20).save(dark)
    content = json.loads((source / "coco.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    (tmp_path / "a.json").write_text(json.dumps(content))
    given = [str(tmp_path / "images"), str(tmp_path / "a.json")]
    assert cli.main(["check-data", *given, "--html", str(opened.folder / "data.html")]) == 0
    page = opened("data")
    titles = page.locator("main h2").all_inner_texts()
    assert titles == page.locator("nav a").all_inner_texts() == ["Overview", "Pictures", "Data"]
    assert "without width" in page.locator(".notes").inner_text()
    assert page.get_by_role("tab").all_inner_texts()[0].startswith("Images to look at")
    shown = page.locator(".details").inner_text()
    assert "photo_05.png" in shown and "very dark" in shown
    assert page.get_by_label("Ground truth").count() == 0
    check_widths(page)


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[pytest.mark.slow] * (each == "many")) for each in REPORTS]
)
def test_no_sideways_scroll_on_phone_or_desktop(opened: Opened, name: str) -> None:
    check_widths(opened(name))


def check_widths(page: "Page") -> None:
    page.set_viewport_size({"width": PHONE, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    page.set_viewport_size({"width": DESKTOP, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") == DESKTOP


def test_theme_motion_and_print(opened: Opened) -> None:
    page = opened.load("detection", color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_label("Light").check(force=True)
    light = page.evaluate(ground)
    assert dark != light
    page.get_by_label("Auto").check(force=True)
    assert page.evaluate(ground) == dark
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("#confusion table").first.is_visible()
    page.emulate_media(media="screen")
    page.keyboard.press("Tab")
    page.evaluate("document.body.firstElementChild.focus()")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.slow
@pytest.mark.parametrize("name", [each for each in REPORTS if each != "many"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(opened: Opened, name: str, theme: str) -> None:
    """Rules of WCAG 2.2 A and AA and of good practice, with all disclosures open."""
    if AXE is None:
        pytest.skip("RESDET_AXE is not the path of axe-core's axe.min.js (npm pack axe-core)")
    page = opened.load(name, color_scheme=theme)
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate(Path(AXE).read_text(encoding="utf-8"))
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    found = page.evaluate("tags => axe.run({runOnly: tags})", tags)
    page.close()
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]]
