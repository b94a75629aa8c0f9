"""COCO's result records as the other benchmarks' metrics take them."""

from pathlib import Path

import numpy as np

from resdet.data.detection.table import AnnotationTable
from resdet.evaluation.coco_detections import read_detections
from resdet.evaluation.inclusive import PixelDetections


def read_coco_results(path: str | Path, truth: AnnotationTable) -> PixelDetections:
    """The boxes of a file of COCO result records, in inclusive pixels; errors as of eval-coco."""
    table, _ = read_detections(path, truth, ("bbox",))
    x, y, width, height = table.boxes.T
    corners = np.stack([x, y, x + width - 1, y + height - 1], axis=1)
    return PixelDetections(table.images, table.labels, table.scores, corners, 0, table.notes)
