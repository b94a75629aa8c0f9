"""An image of 6,000 × 4,000 pixels with the sample set's nuclei, predicted in tiles.

    python -m tests.inference.large_image RUN [--out DIR]

The 67 validation images lie at random places of a canvas, each in a cell filled with its own
background, so that the regular grid of tiles cuts many of them. AP in tiles is compared with AP

- of the 67 images one by one, and
- of windows of the canvas that hold one image each: the same pixels, and no seam cuts an object.

Pairs of detections that share most of the smaller one are counted in both; a network's own NMS
leaves many. The peak memory is that of `resdet predict` in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

import resdet
from resdet.evaluation.coco import evaluate_coco
from resdet.files.rle import encode_bitmap
from resdet.ops.runs import decode_window
from resdet.structures import Detections

WIDTH, HEIGHT = 6000, 4000
COLUMNS, ROWS = 10, 7
TILE, OVERLAP = 512, 0.2
MARGIN = 48
"""Pixels of the canvas around an image in its own window."""
KINDS = ("bbox", "segm")


@dataclass
class Canvas:
    """The large image, its ground truth, and where each small one is."""

    pixels: np.ndarray
    """(4000, 6000) uint8."""
    truth: dict[str, Any]
    """COCO annotations of one image with the id 1."""
    corners: list[tuple[int, int]]
    """x, y of each small image."""


def read_truth(nuclei: Path) -> dict[str, Any]:
    """The sample set's annotations for validation."""
    found: dict[str, Any] = json.loads((nuclei / "annotations" / "val.json").read_text())
    return found


def build(nuclei: Path) -> Canvas:
    """The same canvas on every machine."""
    truth, rng = read_truth(nuclei), np.random.default_rng(0)
    pixels, corners, annotations = np.zeros((HEIGHT, WIDTH), np.uint8), [], []
    for place, entry in enumerate(truth["images"]):
        image = np.asarray(Image.open(nuclei / "images" / entry["file_name"]).convert("L"))
        own = [each for each in truth["annotations"] if each["image_id"] == entry["id"]]
        masks = [coco_mask.decode(encoded(each["segmentation"])) for each in own]
        row, column = divmod(place, COLUMNS)
        top, bottom = (HEIGHT * line // ROWS for line in (row, row + 1))
        left, right = (WIDTH * line // COLUMNS for line in (column, column + 1))
        background = image[~np.any(masks, axis=0)] if masks else image.reshape(-1)
        pixels[top:bottom, left:right] = np.median(background)
        y = int(rng.integers(top + MARGIN, bottom - MARGIN - image.shape[0]))
        x = int(rng.integers(left + MARGIN, right - MARGIN - image.shape[1]))
        pixels[y : y + image.shape[0], x : x + image.shape[1]] = image
        corners.append((x, y))
        for each, mask in zip(own, masks, strict=True):
            code = encode_bitmap(mask, y, x, (HEIGHT, WIDTH)).decode()
            moved = [each["bbox"][0] + x, each["bbox"][1] + y, *each["bbox"][2:]]
            rle = {"size": [HEIGHT, WIDTH], "counts": code}
            entry_of = {"id": len(annotations) + 1, "image_id": 1, "bbox": moved}
            annotations.append({**each, **entry_of, "segmentation": rle})
    image_entry = {"id": 1, "file_name": "large.tif", "height": HEIGHT, "width": WIDTH}
    large = {**truth, "images": [image_entry], "annotations": annotations}
    return Canvas(pixels, large, corners)


def encoded(segmentation: dict[str, Any]) -> dict[str, Any]:
    """Either kind of RLE as pycocotools decodes it."""
    if isinstance(segmentation["counts"], list):
        rle: dict[str, Any] = coco_mask.frPyObjects(segmentation, *segmentation["size"])
        return rle
    return segmentation


def measure(run: str, nuclei: Path, out: Path) -> dict[str, Any]:
    """All numbers; the image is written to `out` as TIFF."""
    canvas, truth = build(nuclei), read_truth(nuclei)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "large.tif"
    Image.fromarray(canvas.pixels).save(path, compression="tiff_lzw")
    model = resdet.load(run, device="cpu", precision="fp32")
    rgb = np.repeat(canvas.pixels[:, :, None], 3, axis=2)
    alone, windows, pairs = [], [], 0
    for entry, (x, y) in zip(truth["images"], canvas.corners, strict=True):
        found = model.predict(nuclei / "images" / entry["file_name"])
        alone += found.to_coco(entry["id"])
        side = 256 + 2 * MARGIN
        window = np.ascontiguousarray(rgb[y - MARGIN :, x - MARGIN :][:side, :side])
        around = model.predict(window, tile=side, overlap=0)
        pairs += overlapping(around)
        windows += on_canvas(around, x - MARGIN, y - MARGIN)
    large = model.predict(path, tile=TILE, overlap=OVERLAP, batch_size=2)
    caps = {"kinds": KINDS, "max_dets": (1, 100, 10_000)}
    results = {
        "alone": evaluate_coco(truth, alone, **caps),
        "windows": evaluate_coco(canvas.truth, windows, **caps),
        "tiles": evaluate_coco(canvas.truth, large.to_coco(1), **caps),
    }
    return {
        "objects": len(canvas.truth["annotations"]),
        "detections": {"windows": len(windows), "tiles": len(large)},
        "AP": {
            name: {kind: round(result[kind]["AP"], 4) for kind in KINDS}
            for name, result in results.items()
        },
        "overlapping_pairs": {"windows": pairs, "tiles": overlapping(large)},
        "peak_mb": peak_memory(run, path, out / "drawn"),
    }


def on_canvas(found: Detections, x: int, y: int) -> list[dict[str, Any]]:
    """Records of a window's detections in pixels of the canvas."""
    records = found.to_coco(1)
    for record in records:
        record["bbox"] = [record["bbox"][0] + x, record["bbox"][1] + y, *record["bbox"][2:]]
        (left, top, _, _), mask = decode_window(record["segmentation"])
        code = encode_bitmap(mask, top + y, left + x, (HEIGHT, WIDTH)).decode()
        record["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": code}
    return records


def overlapping(found: Detections, share: float = 0.7) -> int:
    """Pairs of detections of which at least `share` of the smaller mask is in the other one."""
    boxes, rles = found.boxes.numpy(), found.encoded_masks() or []
    count = 0
    for row, box in enumerate(boxes):
        later = boxes[row + 1 :]
        meets = (later[:, :2] < box[2:]).all(axis=1) & (later[:, 2:] > box[:2]).all(axis=1)
        for other in (row + 1 + np.flatnonzero(meets)).tolist():
            pair = [rles[row], rles[other]]
            common = coco_mask.area(coco_mask.merge(pair, intersect=True))
            count += bool(common > share * max(min(map(int, coco_mask.area(pair))), 1))
    return count


def peak_memory(run: str, path: Path, out: Path) -> float:
    """Of `resdet predict` with tiles, in MB."""
    command = [sys.executable, "-m", "resdet", "predict", run, str(path), "--out", str(out)]
    command += ["--tile", str(TILE), "--overlap", str(OVERLAP), "--device", "cpu"]
    done = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    most = 0
    while done.poll() is None:
        try:
            status = Path(f"/proc/{done.pid}/status").read_text()
        except OSError:
            break
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        most = max(most, int(match[1]) if match else 0)
        try:
            done.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    assert done.wait() == 0, "predict failed"
    return round(most / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--out", type=Path, default=Path("runs/large_image"))
    args = parser.parse_args()
    nuclei = Path(__file__).resolve().parents[2] / "datasets" / "nuclei"
    print(json.dumps(measure(args.run, nuclei, args.out), indent=2))


if __name__ == "__main__":
    main()
