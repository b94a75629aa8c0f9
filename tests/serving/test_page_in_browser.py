"""The page of the server in Chromium: an image by mouse, keyboard, drop and clipboard."""

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from resdet.serving.settings import Settings
from tests.serving.plain_model import PlainModel
from tests.serving.running import Running, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESKTOP, PHONE = 1280, 390
REFUSED = "Failed to load resource: the server responded with a status of 400"
"""What the browser logs of every bad image."""


def encoded(kind: str = "PNG") -> bytes:
    values = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return file.getvalue()


PNG = {"name": "a.png", "mimeType": "image/png", "buffer": encoded()}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(PlainModel(), Settings(score_thresh=0.2, max_upload_mb=1)) as one:
        yield one


@pytest.fixture(scope="module")
def page(browser: "Browser", server: Running) -> Iterator["Page"]:
    """The page, loaded once; it may not fail, log, or ask anyone else."""
    problems: list[str] = []
    page = browser.new_page(viewport={"width": DESKTOP, "height": 900}, reduced_motion="reduce")
    page.set_default_timeout(10_000)
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto(server.url)
    page.get_by_role("heading", name="tiny").wait_for()
    yield page
    assert not [text for text in problems if not text.startswith(REFUSED)]
    assert not [url for url in asked if not url.startswith((server.url, "blob:", "data:"))]


def show(page: "Page") -> str:
    """Choose the image; the status once it is predicted."""
    page.set_input_files("input[type=file]", PNG)
    return status(page, "above")


def status(page: "Page", words: str) -> str:
    place = page.locator("[role=status]")
    place.filter(has_text=words).wait_for()
    return place.inner_text()


def outlines(page: "Page") -> int:
    return page.locator(".picture .outline").count()


def rows(page: "Page") -> int:
    return page.locator(".side tbody tr").count()


def test_an_image_is_predicted_and_the_slider_filters(page: "Page") -> None:
    assert "objects with masks: 2 classes" in page.locator("header p").inner_text()
    assert show(page).startswith("3 detections above 0.20")
    assert outlines(page) == rows(page) == 3
    page.get_by_label("Scores above").focus()
    page.keyboard.press("End")
    assert status(page, "above 1.00").startswith("0 detections") and outlines(page) == 0
    page.keyboard.press("Home")
    # those from .05 are there already
    assert status(page, "above 0.00").startswith("4 detections") and outlines(page) == 4


def test_masks_labels_rows_and_zoom(page: "Page") -> None:
    show(page)
    assert page.locator(".outline.mask").count() == outlines(page) > 0
    assert page.locator(".outline path").first.get_attribute("d").startswith("M")  # type: ignore[union-attr]
    page.get_by_label("Masks").uncheck()
    assert page.locator(".outline.mask").count() == 0
    page.get_by_label("Masks").check()
    labels = page.locator(".outline text").count()
    page.get_by_label("Labels").uncheck()
    assert labels == outlines(page) and page.locator(".outline text").count() == 0
    page.locator(".side tbody tr").first.hover()
    assert page.locator(".outline.lit").count() == 1
    page.locator(".side tbody button").first.click()
    assert page.locator("svg.picture").get_attribute("viewBox") != "0 0 90 60"
    page.get_by_role("button", name="Whole image").click()
    assert page.locator("svg.picture").get_attribute("viewBox") == "0 0 90 60"


def test_a_bad_file_is_a_sentence_and_the_next_one_works(page: "Page") -> None:
    bad = {"name": "<b>.png", "mimeType": "image/png", "buffer": b"no image"}
    page.set_input_files("input[type=file]", bad)
    assert "not an image that can be read" in status(page, "the image")
    assert page.locator(".result").is_hidden()
    assert page.locator(".status.bad").count() == 1
    show(page)
    assert page.locator(".status.bad").count() == 0 and page.locator(".result").is_visible()


GIVE = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "given.png", { type: "image/png" }));
  const options = { bubbles: true, cancelable: true };
  const event = name === "paste"
    ? new ClipboardEvent(name, { ...options, clipboardData: data })
    : new DragEvent(name, { ...options, dataTransfer: data });
  document.querySelector("main").dispatchEvent(event);
}"""


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_an_image_is_dropped_or_pasted_anywhere(page: "Page", way: str) -> None:
    page.evaluate(GIVE, [way, list(PNG["buffer"])])
    page.locator("svg.picture[aria-label^='given.png, 90 × 60 pixels']").wait_for()


def test_what_the_browser_cannot_show_is_shown_by_the_server(page: "Page") -> None:
    tiff = {"name": "a.tif", "mimeType": "image/tiff", "buffer": encoded("TIFF")}
    page.set_input_files("input[type=file]", tiff)
    page.locator("svg.picture[aria-label^='a.tif']").wait_for()
    assert page.locator(".picture image").get_attribute("href").startswith("blob:")  # type: ignore[union-attr]
    assert rows(page) > 0


def test_the_prediction_can_be_saved(page: "Page") -> None:
    show(page)
    with page.expect_download() as download:
        page.get_by_text("Save the JSON").click()
    assert '"detections"' in download.value.path().read_text()


def test_the_keyboard_reaches_everything(page: "Page") -> None:
    show(page)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.outerHTML.slice(0, 60)"))
    reached = " ".join(names)
    for part in (
        'type="radio"',
        'type="file"',
        'type="range"',
        'type="checkbox"',
        "prediction.json",
    ):
        assert part in reached
    assert '<button type="button" class="link"' in reached and "<pre" in reached


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    show(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": DESKTOP, "height": 900})
