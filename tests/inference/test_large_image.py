"""Tiles find what single images find, without duplicates and in little memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.inference.large_image import HEIGHT, KINDS, WIDTH, build, measure


@pytest.mark.slow  # about 230 images of 256² pixels
def test_a_large_image_of_2000_nuclei(repo: Path, nuclei: Path, tmp_path: Path) -> None:
    run = Path(os.environ.get("RESDET_DEMO_RUN", repo / "runs" / "demo_nuclei"))
    if not (run / "best.pt").is_file():
        pytest.skip(f"no run at {run}; `make demo` trains it, or set RESDET_DEMO_RUN")
    numbers = measure(str(run), nuclei, tmp_path)
    print(json.dumps(numbers))
    assert numbers["objects"] == 1974
    for kind in KINDS:
        tiled = numbers["AP"]["tiles"][kind]
        assert tiled > numbers["AP"]["alone"][kind] - 0.01
        assert tiled > numbers["AP"]["windows"][kind] - 0.01
    assert numbers["peak_mb"] < 2000


def test_the_image_has_the_objects_where_its_truth_says(nuclei: Path) -> None:
    canvas = build(nuclei)
    assert canvas.pixels.shape == (HEIGHT, WIDTH) and len(canvas.corners) == 67
    entry = canvas.truth["annotations"][1000]
    x, y, width, height = map(int, entry["bbox"])
    inside = canvas.pixels[y : y + height, x : x + width].mean()
    around = np.median(canvas.pixels[y - 30 : y + height + 30, x - 30 : x + width + 30])
    assert abs(inside - around) > 1
