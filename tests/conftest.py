"""What every test may ask for: the sample set, the shared data, one thread, no network look-ups."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

# set before torch, matplotlib and albumentations are imported, and inherited by subprocesses
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import pytest

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from playwright.sync_api import Browser

    from resdet.models.rcnn import RCNN

REPO = Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names that are not UTF-8, in what a test logs, would end the exchange between processes."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if report.longrepr and (text := _encodable(str(report.longrepr))) != str(report.longrepr):
        report.longrepr = text
    return report


def _encodable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout: configs, tools and datasets lie here."""
    return REPO


@pytest.fixture(scope="session")
def nuclei() -> Path:
    """The sample set: images/, annotations/train.json (267) and val.json (67 images)."""
    return REPO / "datasets" / "nuclei"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the data sets that are not shipped: RESDET_SHARED_DATA or ../shared/data."""
    folder = Path(os.environ.get("RESDET_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set RESDET_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def blank_figures() -> Iterator[None]:
    """Figures are built and written as one white pixel: drawing them is half of a short run."""
    from matplotlib.figure import Figure
    from PIL import Image

    def save(self: Figure, file: IO[bytes], **options: object) -> None:
        Image.new("RGB", (1, 1), "white").save(file, "png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, if it is on PATH, driven by playwright; one module at a time, as its loop would be
    in the way of those of other tests."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def model() -> RCNN:
    """A small detector with random weights."""
    from tests.models.tiny_detector import make_detector

    return make_detector()


@pytest.fixture
def run_folder(tmp_path: Path, model: RCNN) -> Path:
    """A run folder with that detector as best.pt."""
    from tests.models.tiny_detector import write_checkpoint

    write_checkpoint(tmp_path / "run" / "best.pt", model)
    return tmp_path / "run"
