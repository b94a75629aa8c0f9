"""Drawings of images that are read by windows."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resdet.files.windows import open_windows
from resdet.structures import Detections
from resdet.viz.overview import draw_beside


def test_ground_truth_is_left_of_the_predictions(tmp_path: Path) -> None:
    size = 400, 300
    Image.new("RGB", (size[1], size[0])).save(tmp_path / "black.png")
    boxes = torch.tensor([[20.0, 20, 150, 150], [20.0, 220, 150, 350]])
    labels, names = torch.zeros(2, dtype=torch.int64), ["cat", "dog"]
    truth = Detections(boxes, torch.ones(2), labels, size, class_names=names)
    found = Detections(boxes, torch.tensor([0.9, 0.4]), labels, size, class_names=names)
    image = open_windows(str(tmp_path / "black.png"))
    drawn = np.asarray(draw_beside(image, truth, found, score_thresh=0.5, max_side=200))
    # 300 × 400 pixels become 150 × 200, each above a title of 18 pixels
    assert drawn.shape == (218, 304, 3)
    left, right = drawn[:200, :150], drawn[:200, 154:]
    assert left[:100].any() and left[100:].any()
    assert right[:100].any() and not right[100:].any()
    assert (drawn[200:, :150] == 0).any() and (drawn[200:, 154:] == 0).any()
