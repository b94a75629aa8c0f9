"""A localizer on images: crops, dense views, mirror images, guesses and proposals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from resdet.config.localization import LocalizationConfig
from resdet.data.localization.transforms import LocalizationViews
from resdet.factory import build_localizer
from resdet.models.localizer import Localizer
from resdet.ops.boxes import pairwise_iou

NAMES = [f"class {number}" for number in range(7)]


def make_localizer(overrides: dict | None = None, **test: object) -> Localizer:
    torch.manual_seed(4)
    config = LocalizationConfig.model_validate(
        {
            "task": "localization",
            "model": {
                "backbone": {"name": "resnet18", "norm": "bn", "res5_dilation": 2},
                "rpn": {"anchor_sizes": [16, 32, 48], "conv_dim": 24},
            },
            "data": {"size": 64, "test_resize": 64, "test_size": 64, **(overrides or {})},
            "train": {"epochs": 1, "precision": "fp32"},
            "test": test,
        }
    )
    model = build_localizer(config, class_names=NAMES, category_ids=range(1, 8))
    torch.nn.init.normal_(model.rpn.logits.weight, std=0.02)
    torch.nn.init.normal_(model.rpn.deltas.weight, std=0.01)
    return model.eval()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def guess(model: Localizer, images: Sequence[np.ndarray], labels: Sequence[Sequence[int]]):
    views = [model.views(image) for image in images]
    sizes = [image.shape[:2] for image in images]
    return model.guess(views, sizes, [torch.tensor(each) for each in labels])


def test_dense_is_the_crop_where_the_sizes_agree():
    crop, dense = make_localizer(), make_localizer(views="dense")
    for image in (noise(64, 64), noise(64, 64, 1)):
        (one,), (two,) = guess(crop, [image], [[2, 5]]), guess(dense, [image], [[2, 5]])
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)
        assert one.labels.tolist() == [2, 5]


def test_a_dense_map_is_that_of_the_crops_it_covers():
    """Without padding in between: a 1×1 network sees the same at each place of a larger image."""
    model = make_localizer(views="dense")
    hidden = torch.randn(1, 24, 9, 12)
    every, some = model.rpn.score(hidden), model.rpn.score(hidden[:, :, 2:6, 3:7])
    grid = every.unflatten(2, (9, 12, -1))[:, :, 2:6, 3:7].flatten(2)
    torch.testing.assert_close(grid, some)


def test_images_of_one_batch_do_not_change_each_other():
    model = make_localizer(views="dense", scales=[48, 80], flip=True)
    images = [noise(70, 90), noise(120, 60, 1), noise(70, 90, 2)]
    together = guess(model, images, [[1], [2, 3], [0]])
    for image, labels, answer in zip(images, [[1], [2, 3], [0]], together, strict=True):
        (alone,) = guess(model, [image], [labels])
        torch.testing.assert_close(alone.boxes, answer.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone.scores, answer.scores, rtol=1e-4, atol=1e-5)
        height, width = image.shape[:2]
        assert (answer.boxes >= 0).all()
        assert (answer.boxes <= torch.tensor([width, height, width, height])).all()


def test_the_best_of_several_views_is_the_best_of_each():
    image = noise(90, 130)
    labels = [0, 3, 6]
    both = make_localizer(views="dense", scales=[48, 80], flip=True)
    singles = []
    for scale in (48, 80):
        one = make_localizer(views="dense", scales=[scale])
        (answer,) = guess(one, [image], [labels])
        singles.append(answer)
        (mirrored,) = guess(one, [np.ascontiguousarray(image[:, ::-1])], [labels])
        x1, y1, x2, y2 = mirrored.boxes.unbind(1)
        mirrored.boxes = torch.stack([130 - x2, y1, 130 - x1, y2], dim=1)
        singles.append(mirrored)
    (answer,) = guess(both, [image], [labels])
    for row in range(3):
        best = max(singles, key=lambda each: float(each.scores[row]))
        assert float(answer.scores[row]) == pytest.approx(float(best.scores[row]), abs=1e-5)
        torch.testing.assert_close(answer.boxes[row], best.boxes[row], rtol=1e-4, atol=1e-2)


def test_a_centre_crop_answers_in_pixels_of_the_image():
    model = make_localizer({"test_resize": 80})
    image = noise(160, 260)
    (answer,) = guess(model, [image], [[1, 4]])
    # 80 of 160 pixels: twice as large, and the crop of 64 begins at (33, 8)
    crop = np.ascontiguousarray(model.views(image)[0].pixels)
    (own,) = guess(make_localizer(), [crop], [[1, 4]])
    expected = own.boxes * 2 + torch.tensor([33.0, 8, 33, 8]) * 2
    torch.testing.assert_close(answer.boxes, expected, rtol=1e-4, atol=1e-2)


def test_predict_gives_the_classes_with_the_highest_scores():
    model = make_localizer(views="dense", num_guesses=3)
    image = noise(90, 70)
    answer = model.predict(image)
    (every,) = guess(model, [image], [list(range(7))])
    order = every.scores.argsort(descending=True)[:3]
    assert answer.labels.tolist() == every.labels[order].tolist()
    torch.testing.assert_close(answer.scores, every.scores[order])
    torch.testing.assert_close(answer.boxes, every.boxes[order])
    thresh = float(answer.scores[1])
    assert len(model.predict(image, score_thresh=thresh)) == 1
    assert answer.to_coco(3)[0]["category_id"] == answer.labels[0] + 1
    pair = model.predict([image, noise(40, 40)], batch_size=2)
    torch.testing.assert_close(pair[0].boxes, answer.boxes, rtol=1e-4, atol=1e-3)


def test_proposals_are_the_best_boxes_of_each_class():
    model = make_localizer(views="dense", scales=[64, 96], proposal_nms=0.6)
    image = noise(80, 100)
    views, labels = [model.views(image)], [torch.tensor([5, 2])]
    (many,) = model.propose(views, [(80, 100)], labels, 20)
    (best,) = model.guess(views, [(80, 100)], labels)
    assert many.labels.tolist() == [5] * 20 + [2] * 20
    for row, start in enumerate((0, 20)):
        torch.testing.assert_close(many.boxes[start], best.boxes[row])
        scores = many.scores[start : start + 20]
        assert torch.equal(scores, scores.sort(descending=True).values)
        own = many.boxes[start : start + 20]
        assert (pairwise_iou(own, own) - torch.eye(20)).max() <= 0.6 + 1e-6
    scores, boxes = model.candidates(model.look(views)[0], views[0], labels[0], (80, 100))
    assert scores.shape == boxes.shape[:2]
    assert isinstance(model.views, LocalizationViews)
