"""Counts of annotation tables, on the sample set and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resdet.data.detection.readers import read_annotations
from resdet.data.detection.statistics import halving_bins, statistics_of
from resdet.data.detection.table import AnnotationTable


def table() -> AnnotationTable:
    """Three images, two classes, four objects and a crowd region."""
    boxes = [[0, 0, 10, 20], [5, 5, 40, 20], [0, 0, 100, 100], [1, 1, 0, 5], [0, 0, 50, 50]]
    images = [{"id": k, "file_name": f"{k}.png", "width": 200, "height": 100} for k in (1, 2, 3)]
    annotations = [
        {
            "id": k,
            "image_id": [1, 1, 2, 2, 1][k - 1],
            "category_id": [4, 9, 9, 9, 4][k - 1],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(k == 5),
        }
        for k, box in enumerate(boxes, start=1)
    ]
    classes = [{"id": 4, "name": "a"}, {"id": 9, "name": "b"}]
    data = {"images": images, "annotations": annotations, "categories": classes}
    return read_annotations(data, [])


def test_the_numbers_of_a_small_table() -> None:
    numbers = statistics_of(table())
    assert numbers.num_images == 3
    assert numbers.objects_per_class.tolist() == [1, 3]
    assert numbers.images_per_class.tolist() == [1, 2]
    assert numbers.objects_per_image.tolist() == [2, 2, 0]
    assert numbers.size_names.tolist() == [0, 0, 2, 0]
    np.testing.assert_allclose(numbers.aspect_ratios, [0.5, 2, 1, 0])
    np.testing.assert_allclose(numbers.relative_sizes[:3], np.sqrt([0.01, 0.04, 0.5]))


def test_counts_agree_with_the_file(nuclei: Path) -> None:
    truth = read_annotations(nuclei / "annotations" / "val.json", [])
    numbers = statistics_of(truth)
    assert numbers.objects_per_class.sum() == numbers.objects_per_image.sum() == 1974
    assert numbers.images_per_class.tolist() == [67]


def test_bins_at_powers_of_two() -> None:
    edges, counts = halving_bins(np.array([1.0, 1.5, 2.0, 7.9, 8.0, 0.0, np.nan]))
    assert edges.tolist() == [1, 2, 4, 8, 16]
    assert counts.tolist() == [2, 1, 1, 1]
    edges, counts = halving_bins(np.array([0.001, 1.0, 1000.0]), most=3)
    assert edges.tolist() == [128, 256, 512, 1024] and counts.tolist() == [2, 0, 1]
    assert halving_bins(np.zeros(0))[1].tolist() == [0]
