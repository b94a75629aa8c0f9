"""Boxes in CSV files with the columns image, x1, y1, x2, y2 and class."""

import csv
from dataclasses import replace
from pathlib import Path

from resdet.data.detection.readers import READERS, coco
from resdet.files.images import read_size


def read(source, findings):
    with Path(source.path).open(newline="") as file:
        rows = list(csv.DictReader(file))
    classes = sorted({row["class"] for row in rows})
    images = {}
    for name in sorted({row["image"] for row in rows}):
        height, width = read_size(Path(source.images) / name) if source.images else (0, 0)
        images[name] = {"id": name, "file_name": name, "height": height, "width": width}
    annotations = []
    for number, row in enumerate(rows, start=1):
        x1, y1, x2, y2 = (float(row[key]) for key in ("x1", "y1", "x2", "y2"))
        annotations.append(
            {
                "id": number,
                "image_id": row["image"],
                "category_id": classes.index(row["class"]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
            }
        )
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, start=1)]
    data = {"images": [*images.values()], "categories": categories, "annotations": annotations}
    return coco.read(replace(source, data=data), findings)


READERS["boxes"] = read
