"""Runs an exported model without resdet: python THIS.py [MODEL] IMAGE… > results.json

Needs numpy, Pillow and the runtime: onnxruntime for .onnx, openvino for .xml, torch and torchvision
for .pt2. The model and its description are beside this file, under its name. MODEL chooses one of
several, such as .xml; default: the one that was exported last. Images have 8 bits per channel.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Arrays = dict[str, Any]


def open_model(about: dict[str, Any], path: Path) -> Callable[[Arrays], Arrays]:
    """A function from input arrays by name to output arrays by name."""
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

    run = torch.export.load(path).module()
    return lambda inputs: {
        name: value.numpy() for name, value in run(*map(torch.from_numpy, inputs.values())).items()
    }


def resize(about: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (h, w, 3): the short side at `short_edge`, the long at most `max_size`."""
    rule, sides = about["test_resize"], pixels.shape[:2]
    scale = min(rule["short_edge"] / min(sides), rule["max_size"] / max(sides))
    if rule["method"] == "pillow":
        height, width = (max(int(side * scale + 0.5), 1) for side in sides)
        resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized)
    pixels = pixels.astype(np.float32)  # torchvision: floats, without antialiasing
    for axis, side in enumerate(sides):
        count = max(int(side * scale), 1)
        place = np.clip((np.arange(count) + 0.5) * (side / count) - 0.5, 0, side - 1)
        first = place.astype(int)
        share = np.expand_dims((place - first).astype(np.float32), (1 - axis, 2))
        after = pixels.take(np.minimum(first + 1, side - 1), axis)
        pixels = pixels.take(first, axis) * (1 - share) + after * share
    return pixels


def crop(about: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → the centre (S, S, 3) after its short side was resized."""
    rule, sides = about["crop"], pixels.shape[:2]
    height, width = (int(rule["short_edge"] * side / min(sides)) for side in sides)
    method = Image.Resampling[rule["interpolation"].upper()]
    top, left = (round((side - rule["size"]) / 2) for side in (height, width))
    resized = np.asarray(Image.fromarray(pixels).resize((width, height), method))
    return resized[top : top + rule["size"], left : left + rule["size"]]


def paste(about: dict[str, Any], mask: np.ndarray, box: np.ndarray, size: Any) -> np.ndarray:
    """(H, W) bool from probabilities (m, m) inside a box xyxy in pixels."""
    is_rounded = about["mask_paste"] == "rounded"  # torchvision: resized to whole pixels
    mask = np.pad(mask, 1) if is_rounded else mask
    cells, weights = len(mask), []
    for low, high, side in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
        if is_rounded:
            center, half = (high + low) / 2, (high - low) / 2 * (cells / (cells - 2))
            low = int(center - half)
            high = max(int(center + half), low) + 1
        place = (np.arange(side) + 0.5 - low) / (high - low) * cells - 0.5
        if is_rounded:
            is_inside = np.abs(place - (cells - 1) / 2) < cells / 2
            place = np.where(is_inside, np.clip(place, 0, cells - 1), -1)
        weights.append(np.maximum(1 - np.abs(place[:, None] - np.arange(cells)), 0))
    pasted = weights[0] @ mask @ weights[1].T
    return pasted > 0.5 if is_rounded else pasted >= 0.5


def detect(about: dict[str, Any], run: Callable[[Arrays], Arrays], image: np.ndarray) -> Arrays:
    """Of an image (H, W, 3) uint8 RGB: boxes (n, 4) xyxy in its pixels, scores (n,), labels (n,)
    and, with a mask head, masks, (H, W) each, true inside."""
    resized = resize(about, image)
    size, original = (np.array([each.shape[:2]], np.int64) for each in (resized, image))
    height, width = -(-size[0] // about["size_divisibility"]) * about["size_divisibility"]
    count = about["batch"] or 1  # the first row is the image
    batch = np.zeros((count, 3, about["height"] or height, about["width"] or width), resized.dtype)
    batch[0, :, : len(resized), : resized.shape[1]] = resized.transpose(2, 0, 1)
    inputs = {"images": batch, "sizes": size.repeat(count, 0)}
    if about["pasted"]:
        inputs["original_sizes"] = original.repeat(count, 0)
    outputs = run(inputs)
    kept = outputs.pop("counts")[0]
    found = {name: values[0, :kept] for name, values in outputs.items()}
    if not about["pasted"]:
        scale = np.tile((original / size)[:, ::-1], 2).astype(np.float32)
        found["boxes"] = np.clip(found["boxes"] * scale, 0, np.tile(original[:, ::-1], 2))
    keep = (found["boxes"][:, 2:] > found["boxes"][:, :2]).all(axis=1)
    found = {name: values[keep] for name, values in found.items()}
    if "masks" in found and not about["pasted"]:
        pairs = zip(found["masks"], found["boxes"], strict=True)
        found["masks"] = [paste(about, mask, box, original[0]) for mask, box in pairs]
    return found


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed RLE of (H, W) bool."""
    edges = np.flatnonzero(np.diff(mask.T.ravel().astype(np.int8), prepend=0, append=0))
    counts = np.diff(edges, prepend=0, append=mask.size).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] else counts[:-1]}


def main() -> None:
    here, paths = Path(__file__).resolve(), sys.argv[1:]
    about = json.loads(here.with_suffix(".json").read_text(encoding="utf-8"))
    models = [here.with_suffix(suffix) for suffix in about["files"] if suffix != ".bin"]
    if paths and Path(paths[0]).suffix in about["files"]:
        models = [Path(paths.pop(0))]
    run = open_model(about, next(path for path in models if path.is_file()))
    names, records = about["class_names"], []
    for path in paths:
        image = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        record: dict[str, Any] = {"file": path}
        if about["task"] == "classification":
            batch = crop(about, image).transpose(2, 0, 1)[None].repeat(about["batch"] or 1, 0)
            scores = run({"images": batch})["probabilities"][0]
            best = np.argsort(-scores, kind="stable")[:5]
            record |= {"names": [names[label] for label in best], "scores": scores[best].tolist()}
        else:
            found = detect(about, run, image)
            record["names"] = [names[label] for label in found["labels"]]
            record |= {key: found[key].tolist() for key in ("boxes", "scores", "labels")}
            if "masks" in found:
                record["masks"] = [encode(mask) for mask in found["masks"]]
        records.append(record)
    json.dump(records, sys.stdout)


if __name__ == "__main__":
    main()
