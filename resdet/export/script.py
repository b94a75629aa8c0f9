"""Runs an exported model without resdet: python THIS.py IMAGE… > results.json

Needs numpy, pillow and the runtime: onnxruntime for .onnx, openvino for .xml, torch and torchvision
for .pt2. The model and its description are beside this file, under its name.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve()
Arrays = dict[str, Any]


def open_model(about: dict[str, Any]) -> Callable[[Arrays], Arrays]:
    """A function from input arrays by name to output arrays by name."""
    path = HERE.with_suffix(Path(about["file"]).suffix)
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))
    if path.suffix == ".xml":
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32"} if about["precision"] == "fp32" else {}
        model = openvino.compile_model(path, "CPU", exact)
        return lambda inputs: {key.any_name: value for key, value in model(inputs).items()}
    import torch
    import torchvision  # noqa: F401  # its operators are in the graph

    module = torch.export.load(path).module()

    def run(inputs: Arrays) -> Arrays:
        outputs = module(*map(torch.from_numpy, inputs.values()))
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def resize(about: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (h, w, 3): the short side at `short_edge`, the long at most `max_size`."""
    height, width = pixels.shape[:2]
    rule = about["test_resize"]
    scale = min(rule["short_edge"] / min(height, width), rule["max_size"] / max(height, width))
    if rule["method"] == "pillow":
        size = [max(int(side * scale + 0.5), 1) for side in (width, height)]
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))
    pixels = pixels.astype(np.float32)  # torchvision: floats, without antialiasing
    for axis, side in enumerate((height, width)):
        count = max(math.floor(side * scale), 1)
        place = np.clip((np.arange(count) + 0.5) * (side / count) - 0.5, 0, side - 1)
        first = place.astype(int)
        share = np.expand_dims((place - first).astype(np.float32), (1 - axis, 2))
        after = pixels.take(np.minimum(first + 1, side - 1), axis)
        pixels = pixels.take(first, axis) * (1 - share) + after * share
    return pixels


def crop(about: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → the centre (S, S, 3) after its short side was resized."""
    height, width = pixels.shape[:2]
    short, side = about["crop"]["short_edge"], about["crop"]["size"]
    size = (int(short * width / height), short) if height <= width else (
        short, int(short * height / width))  # fmt: skip
    filter = Image.Resampling[about["crop"]["interpolation"].upper()]
    left, top = (round((each - side) / 2) for each in size)
    resized = Image.fromarray(pixels).resize(size, filter)
    return np.asarray(resized)[top : top + side, left : left + side]


def to_batch(about: dict[str, Any], images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, H, W), padded with 0, and the true (height, width) (N, 2), of (h, w, 3) each."""
    count = about["batch"] or len(images)
    sizes = np.array([image.shape[:2] for image in images] * count, np.int64)[:count]
    multiple = about["size_divisibility"]
    height, width = -(-sizes.max(axis=0) // multiple) * multiple
    height, width = about["height"] or height, about["width"] or width
    batch = np.zeros((count, 3, height, width), images[0].dtype)
    for row, image in enumerate(images):  # ValueError for an image larger than a fixed size
        batch[row, :, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return batch, sizes


def paste(about: dict[str, Any], mask: np.ndarray, box: np.ndarray, size: Any) -> np.ndarray:
    """(H, W) bool from probabilities (m, m) inside a box xyxy in pixels."""
    is_rounded = about["mask_paste"] == "rounded"  # torchvision: resized to whole pixels
    mask = np.pad(mask, 1) if is_rounded else mask
    cells, weights = np.arange(len(mask)), []
    for low, high, side in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        inside: Any = 1
        if is_rounded:
            center, half = (high + low) / 2, (high - low) / 2 * (len(mask) / (len(mask) - 2))
            pixels = np.arange(side) - int(center - half)
            count = max(int(center + half) - int(center - half) + 1, 1)
            place = np.clip((pixels + 0.5) * (len(mask) / count) - 0.5, 0, len(mask) - 1)
            inside = ((pixels >= 0) & (pixels < count))[:, None]
        else:
            place = (np.arange(side) + 0.5 - low) / (high - low) * len(mask) - 0.5
        weights.append(np.maximum(1 - np.abs(place[:, None] - cells), 0) * inside)
    pasted = weights[0] @ mask @ weights[1].T
    return pasted > 0.5 if is_rounded else pasted >= 0.5


def detect(about: dict[str, Any], run: Callable[[Arrays], Arrays], images: Any) -> list[Arrays]:
    """Of each image (H, W, 3) uint8 RGB: boxes (n, 4) xyxy in its pixels, scores (n,), labels (n,)
    and, with a mask head, masks, (H, W) bool each."""
    resized = [resize(about, image) for image in images]
    batch, sizes = to_batch(about, resized)
    originals = np.array([image.shape[:2] for image in images] * len(sizes), np.int64)[: len(sizes)]
    inputs = {"images": batch, "sizes": sizes}
    outputs = run({**inputs, "original_sizes": originals} if about["pasted"] else inputs)
    results = []
    for row, size in enumerate(originals[: len(images)]):
        rows = {key: value[row][: outputs["counts"][row]] for key, value in outputs.items()
                if key != "counts"}  # fmt: skip
        if not about["pasted"]:
            scale = np.tile((size / sizes[row]).astype(np.float32)[::-1], 2)
            limits = np.tile(size.astype(np.float32)[::-1], 2)
            rows["boxes"] = np.clip(rows["boxes"] * scale, 0, limits)
        keep = (rows["boxes"][:, 2:] > rows["boxes"][:, :2]).all(axis=1)
        rows = {key: value[keep] for key, value in rows.items()}
        if "masks" in rows and about["pasted"]:
            rows["masks"] = list(rows["masks"] > 0)
        elif "masks" in rows:
            pairs = zip(rows["masks"], rows["boxes"], strict=True)
            rows["masks"] = [paste(about, mask, box, size) for mask, box in pairs]
        results.append(rows)
    return results


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of (H, W) bool."""
    edges = np.flatnonzero(np.diff(mask.T.ravel().astype(np.int8), prepend=0, append=0))
    counts = np.diff(edges, prepend=0, append=mask.size).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] else counts[:-1]}


def main() -> None:
    about = json.loads(HERE.with_suffix(".json").read_text(encoding="utf-8"))
    run, names, records = open_model(about), about["class_names"], []
    for path in sys.argv[1:]:
        image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        record: dict[str, Any] = {"file": path}
        if about["task"] == "classification":
            values = run({"images": to_batch(about, [crop(about, image)])[0]})["probabilities"][0]
            best = np.argsort(-values, kind="stable")[:5]
            record |= {"names": [names[label] for label in best], "scores": values[best].tolist()}
        else:
            (found,) = detect(about, run, [image])
            record["names"] = [names[label] for label in found["labels"]]
            record |= {key: found[key].tolist() for key in ("boxes", "scores", "labels")}
            if "masks" in found:
                record["masks"] = [encode(mask) for mask in found["masks"]]
        records.append(record)
    json.dump(records, sys.stdout)


if __name__ == "__main__":
    main()
