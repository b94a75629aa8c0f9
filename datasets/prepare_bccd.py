"""Turn a copy of BCCD_Dataset (VOC boxes) into datasets/bccd: COCO JSON and the images.

    git clone https://github.com/Shenggan/BCCD_Dataset
    python datasets/prepare_bccd.py BCCD_Dataset/BCCD

Corners are kept unchanged: x = xmin and width = xmax - xmin. Boxes without area are dropped and
reported. The first 291 of the 364 images by name are the training set, the others the validation
set.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from resdet.files.walk import walk

CLASSES = ("RBC", "WBC", "Platelets")
NUM_TRAIN = 291


def read_boxes(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One VOC file → the COCO image record and its annotation records, without ids."""
    root = ElementTree.parse(path).getroot()
    image = {
        # the file_name inside some of the XML files has no extension
        "file_name": f"{path.stem}.jpg",
        "width": int(root.findtext("size/width", "0")),
        "height": int(root.findtext("size/height", "0")),
    }
    annotations = []
    for item in root.iter("object"):
        corners = [float(item.findtext(f"bndbox/{key}", "0")) for key in ("xmin", "ymin")]
        ends = [float(item.findtext(f"bndbox/{key}", "0")) for key in ("xmax", "ymax")]
        width, height = ends[0] - corners[0], ends[1] - corners[1]
        name = item.findtext("name", "")
        if width <= 0 or height <= 0:
            print(f"{path.name}: {name} box {[*corners, *ends]} has no area; dropped")
            continue
        annotations.append(
            {
                "category_id": CLASSES.index(name) + 1,
                "bbox": [*corners, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    return image, annotations


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with Annotations/ and JPEGImages/")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).resolve().parent / "bccd",
        help="folder to fill; default datasets/bccd",
    )
    args = parser.parse_args()
    files = list(walk(args.source / "Annotations", (".xml",)))
    if not files:
        parser.error(f"{args.source}: no Annotations/*.xml; give the BCCD folder of BCCD_Dataset")
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    (args.out / "annotations").mkdir(exist_ok=True)
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
    next_id = 1
    for split, start, end in (("train", 0, NUM_TRAIN), ("val", NUM_TRAIN, len(files))):
        images, annotations = [], []
        for image_id, path in enumerate(files[start:end], start + 1):
            image, boxes = read_boxes(path)
            images.append({"id": image_id, **image})
            for box in boxes:
                annotations.append({"id": next_id, "image_id": image_id, **box})
                next_id += 1
            source = args.source / "JPEGImages" / image["file_name"]
            shutil.copyfile(source, args.out / "images" / source.name)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (args.out / "annotations" / f"{split}.json").write_text(json.dumps(content))
        print(f"{split}: {len(images)} images, {len(annotations)} boxes")


if __name__ == "__main__":
    main()
