"""The classes of the data sets that published detectors were trained on."""

from pathlib import Path

import yaml

_CLASSES = yaml.safe_load(Path(__file__).with_name("classes.yaml").read_text(encoding="utf-8"))
_PAIRS = {name: [(number, label) for number, label in rows] for name, rows in _CLASSES.items()}

COCO_CATEGORIES: list[tuple[int, str]] = _PAIRS["coco"]
"""Original id and name of COCO's 80 categories, by label."""
VOC_CATEGORIES: list[tuple[int, str]] = _PAIRS["voc"]
CITYSCAPES_CATEGORIES: list[tuple[int, str]] = _PAIRS["cityscapes"]
