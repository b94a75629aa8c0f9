"""Cut a detection data set into crops around one object each, to train localization on.

    python datasets/prepare_object_crops.py datasets/bccd/images \\
        datasets/bccd/annotations/train.json --out datasets/bccd_crops --name train --per-class 300
    python datasets/prepare_object_crops.py datasets/bccd/images \\
        datasets/bccd/annotations/val.json --out datasets/bccd_crops --name val

Takes COCO JSON. Each object gives one image, OUT/images/NAME_ID.jpg, with a random margin on every
side, and OUT/annotations/NAME.json has its one box and class. Crowd regions are left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.table import AnnotationTable
from resdet.errors import UserError
from resdet.files.findings import Finding, log_findings
from resdet.files.images import read_image
from resdet.files.writing import write_json

LEAST_SIDE = 8
"""Objects with a shorter side, in pixels, are left out: too few pixels to learn from."""


def choose(table: AnnotationTable, per_class: int | None, rng: np.random.Generator) -> list[int]:
    """Rows of the objects to crop: all, or at most `per_class` of each class at random."""
    sides = table.boxes_xywh[:, 2:].min(axis=1)
    usable = ~table.crowd & (sides >= LEAST_SIDE)
    rows = []
    for label in range(len(table.class_names)):
        own = np.flatnonzero(usable & (table.labels == label))
        rows += own[rng.permutation(len(own))[:per_class]].tolist()
    return sorted(rows)


def crop_window(
    box: np.ndarray, size: tuple[int, int], margin: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels: the box xywh and on each side a margin of 0 to
    `margin` times its width or height, inside an image of `size` (height, width)."""
    x, y, width, height = box.tolist()
    left, top, right, bottom = rng.uniform(0, margin, 4).tolist()
    return (
        max(0, int(x - left * width)),
        max(0, int(y - top * height)),
        min(size[1], int(np.ceil(x + width + right * width))),
        min(size[0], int(np.ceil(y + height + bottom * height))),
    )


def write_crops(table: AnnotationTable, rows: list[int], args: argparse.Namespace) -> None:
    """The crops, and then the annotation file."""
    rng = np.random.default_rng((args.seed, 1))
    folder = args.out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    (args.out / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, row in enumerate(rows, start=1):
        pixels = read_image(Path(args.images) / table.file_names[int(table.image_of[row])])
        box = table.boxes_xywh[row]
        left, top, right, bottom = crop_window(box, pixels.shape[:2], args.margin, rng)
        name = f"{args.name}_{number:05d}.jpg"
        Image.fromarray(pixels[top:bottom, left:right]).save(folder / name, quality=95)
        images.append(
            {"id": number, "file_name": name, "width": right - left, "height": bottom - top}
        )
        moved = [float(box[0]) - left, float(box[1]) - top, float(box[2]), float(box[3])]
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": table.category_ids[int(table.labels[row])],
                "bbox": moved,
                "area": moved[2] * moved[3],
                "iscrowd": 0,
            }
        )
    categories = [
        {"id": key, "name": name}
        for key, name in zip(table.category_ids, table.class_names, strict=True)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = write_json(args.out / "annotations" / f"{args.name}.json", content)
    print(f"{path}: {len(images)} images of one object each")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", help="image folder")
    parser.add_argument("annotations", help="COCO JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to fill")
    parser.add_argument("--name", required=True, help="name of the set, such as train or val")
    parser.add_argument(
        "--margin",
        type=float,
        default=0.8,
        help="largest margin, in widths and heights of the object; default .8",
    )
    parser.add_argument("--per-class", type=int, help="most objects of each class; default all")
    parser.add_argument("--seed", type=int, default=0, help="of margins and choice; default 0")
    args = parser.parse_args()
    findings: list[Finding] = []
    try:
        table = read_annotations(args.annotations, findings, outlines=False)
        log_findings(findings)
        rows = choose(table, args.per_class, np.random.default_rng((args.seed, 0)))
        if not rows:
            raise UserError(f"{args.annotations}: no object to crop; give a file with boxes")
        write_crops(table, rows, args)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
