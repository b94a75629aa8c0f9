"""Detectors with test-time switches: slow references, symmetry, and what users see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from resdet.config import testing
from resdet.errors import UserError
from resdet.files.images import read_image
from resdet.inference.combined import CombinedDetector, combine
from resdet.inference.loading import load
from resdet.models import branches
from resdet.models.rcnn import RCNN
from resdet.structures import Detections, collate_images
from tests.models.test_fixed_slots import C4
from tests.models.tiny import merged, tiny_model
from tests.models.tiny_detector import make_detector, write_checkpoint
from tests.ops.test_box_voting import iou, slow

FEW = {"rpn": {"post_nms_topk_test": 15}, "score_thresh": 0.2}


def detector(changes: dict | None = None, seed: int = 0, short_edge: int = 96) -> RCNN:
    """A detector with random heads that tell classes apart and really move their boxes."""
    model = tiny_model(merged(FEW, changes or {}), seed=seed).eval()
    for head in model.roi_heads.box_heads:
        scale = 0.05 if head.average else 1.0  # the mean over res5 is far from 0
        torch.nn.init.normal_(head.cls_score.weight, std=0.5 * scale)
        torch.nn.init.normal_(head.bbox_pred.weight, std=0.3 * scale)
    model.test_short_edge, model.test_max_size = short_edge, 2 * short_edge
    model.precision = "fp32"
    return model


def combined(models: list[RCNN], **test: Any) -> CombinedDetector:
    names = [f"run {number}" for number in range(len(models))]
    return CombinedDetector(models, testing.TestConfig.model_validate(test), names)


@pytest.fixture(scope="module")
def pixels(nuclei: Path) -> np.ndarray:
    return read_image(sorted((nuclei / "images").iterdir())[0])[:120, :150]


@pytest.fixture(scope="module")
def fpn() -> RCNN:
    return detector()


@pytest.fixture(scope="module")
def c4() -> RCNN:
    return detector(C4)


def assert_close(a: Detections, b: Detections, tolerance: float = 2e-3) -> None:
    assert len(a) == len(b) > 0
    assert torch.equal(a.labels, b.labels)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=tolerance)
    torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-5)
    if a.mask_probs is not None and b.mask_probs is not None:
        torch.testing.assert_close(a.mask_probs, b.mask_probs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["fpn", "c4"])
@pytest.mark.parametrize("method", ["pillow", "float"])
def test_the_test_size_alone_is_the_plain_path(
    kind: str, method: str, pixels: np.ndarray, request: pytest.FixtureRequest
) -> None:
    model: RCNN = request.getfixturevalue(kind)
    model.test_resize_method = method
    images = [pixels, pixels[:60, :140]]
    plain = model.predict(images, batch_size=2)
    for test in ({"scales": [96]}, {"scales": [96], "multi_scale": "views", "box_voting": 1.0}):
        again = combined([model], **test).predict(images, batch_size=2)
        for a, b in zip(plain, again, strict=True):
            assert_close(a, b)
            assert a.class_names == b.class_names and a.category_ids == b.category_ids
    model.test_resize_method = "pillow"


@torch.no_grad()
@pytest.mark.parametrize("kind", ["fpn", "c4", "context", "cascade"])
@pytest.mark.parametrize("classes", ["best", "all"])
def test_refinement_and_voting_step_by_step(kind: str, classes: str, pixels: np.ndarray) -> None:
    changes = {
        "fpn": {"roi": {"mask_head": None}},
        "c4": merged(C4, {"roi": {"mask_head": None}}),
        "context": {"roi": {"mask_head": None, "context": True}},
        "cascade": {"roi": {"mask_head": None, "box_head": {"class_agnostic": True},
                            "stages": [{}, {}]}},
    }[kind]  # fmt: skip
    model = detector(changes)
    heads = model.roi_heads
    batch = collate_images([model.prepare(pixels)], model.size_divisibility)
    levels = model.levels(batch)
    proposals, _ = model.rpn(levels, batch.sizes, None)
    regions = proposals.boxes[0][proposals.valid[0]]
    features = heads.features(levels)

    def predict(box: Tensor) -> tuple[Tensor, Tensor]:
        """Of one region: scores (K + 1,) and boxes (K, 4)."""
        image = torch.zeros(1, dtype=torch.int64)
        scores, boxes = heads.score(features, box[None], image, batch.sizes)
        return scores[0], boxes[0].expand(heads.num_classes, 4)

    rows: list[tuple[float, int, list[float]]] = []
    for region in regions:
        scores, boxes = predict(region)
        rows += [(float(scores[k]), k, boxes[k].tolist()) for k in range(2)]
        chosen = [int(scores[:2].argmax())]
        if classes == "all":
            chosen = [k for k in range(2) if scores[k] > 0.2]
        for k in chosen:
            again, moved = predict(boxes[k])
            new = range(2) if classes == "best" else [k]
            rows += [(float(again[j]), j, moved[j].tolist()) for j in new]
    rows = [row for row in rows if row[0] > 0.2]
    kept: list[tuple[float, int, list[float]]] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if all(row[1] != other[1] or iou(row[2], other[2]) <= 0.5 for other in kept):
            kept.append(row)
    kept = kept[:100]
    boxes = slow(
        [row[2] for row in kept],
        [row[1] for row in kept],
        [row[2] for row in rows],
        [row[0] for row in rows],
        [row[1] for row in rows],
        0.5,
    )
    found = combined([model], refine=True, refine_classes=classes, box_voting=0.5).predict(pixels)
    assert isinstance(found, Detections) and len(found) == len(kept) > 5
    torch.testing.assert_close(found.scores, torch.tensor([row[0] for row in kept]))
    assert found.labels.tolist() == [row[1] for row in kept]
    height, width = batch.sizes[0].tolist()
    ratio = torch.tensor([150 / width, 120 / height] * 2)
    torch.testing.assert_close(found.boxes, torch.tensor(boxes) * ratio, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("kind", "merge"), [("c4", "nms"), ("fpn", "soft_nms"), ("fpn", "wbf")])
def test_a_mirrored_image_has_mirrored_detections(
    kind: str, merge: str, pixels: np.ndarray, request: pytest.FixtureRequest
) -> None:
    model: RCNN = request.getfixturevalue(kind)
    image = np.ascontiguousarray(pixels[:96, :128])
    both = combined([model], flip=True, merge=merge, refine=True, scales=[48, 64])
    here = both.predict(image)
    there = both.predict(np.ascontiguousarray(image[:, ::-1]))
    assert isinstance(here, Detections) and isinstance(there, Detections)
    x1, y1, x2, y2 = there.boxes.unbind(1)
    mirrored = torch.stack([128 - x2, y1, 128 - x1, y2], dim=1)
    assert len(here) == len(there) > 5
    torch.testing.assert_close(here.scores, there.scores, rtol=0, atol=1e-4)
    rows = ((here.boxes[:, None] - mirrored).abs() < 0.01).all(dim=2)
    rows &= here.labels[:, None] == there.labels
    assert rows.any(dim=1).all()
    order = rows.int().argmax(dim=1)
    assert here.mask_probs is not None and there.mask_probs is not None
    torch.testing.assert_close(here.mask_probs, there.mask_probs[order].flip(-1), rtol=0, atol=2e-3)
    assert not torch.allclose(model.predict(image).scores[:5], here.scores[:5], atol=1e-5)


def test_masks_are_the_mean_of_all_views(fpn: RCNN, pixels: np.ndarray) -> None:
    found = combined([fpn], flip=True, scales=[64, 96]).predict(pixels)
    assert isinstance(found, Detections) and found.mask_probs is not None
    total = torch.zeros_like(found.mask_probs)
    for short_edge in (64, 96):
        for flipped in (False, True):
            fpn.test_short_edge, fpn.test_max_size = short_edge, 2 * short_edge
            image = fpn.prepare(pixels)
            batch = collate_images([image.flip(-1) if flipped else image], 32)
            x1, y1, x2, y2 = found.boxes.unbind(1)
            boxes = torch.stack([150 - x2, y1, 150 - x1, y2], 1) if flipped else found.boxes
            height, width = batch.sizes[0].tolist()
            boxes = boxes * torch.tensor([width / 150, height / 120] * 2)
            with torch.no_grad():
                features = fpn.roi_heads.features(fpn.levels(batch))
                head = fpn.roi_heads.branches["mask_head"]
                pooled = features.pool(boxes, torch.zeros_like(found.labels), 14)
                probs = head(pooled, found.labels).sigmoid()  # type: ignore[operator]
            total += probs.flip(-1) if flipped else probs
    fpn.test_short_edge, fpn.test_max_size = 96, 192
    torch.testing.assert_close(found.mask_probs, total / 4, rtol=0, atol=1e-3)


def test_an_ensemble_of_itself_is_itself(fpn: RCNN, pixels: np.ndarray) -> None:
    """The union has each proposal twice, and NMS drops one of each two."""
    assert_close(fpn.predict(pixels), combined([fpn, fpn]).predict(pixels))
    assert combine([fpn], ["run"]) is fpn


def test_members_differ_in_what_they_may(fpn: RCNN, c4: RCNN, pixels: np.ndarray) -> None:
    """Pyramid or one map, test size, channel order, order of the classes, size of the masks."""
    other = detector(merged(C4, {"channel_order": "bgr"}), seed=3, short_edge=64)
    other.class_names = other.class_names[::-1]
    members = [fpn, other]
    test = {"flip": True, "scales": [64], "refine": True, "box_voting": 0.8}
    both = combined(members, **test).predict([pixels, pixels[:50]], batch_size=2)
    assert all(len(each) > 0 for each in both)
    assert both[0].mask_probs is not None and both[0].mask_probs.shape[1:] == (28, 28)
    assert both[0].class_names == fpn.class_names
    one = combined(members).predict(pixels)
    # the order of the members does not matter, but for whose labels and limits count
    turned = combined([other, fpn]).predict(pixels)
    count = min(len(one), len(turned), 10)
    torch.testing.assert_close(turned.scores[:count], one.scores[:count], rtol=0, atol=1e-4)
    assert (turned.labels[:count] == 1 - one.labels[:count]).all()


def test_proposals_of_all_scales_and_a_high_threshold(c4: RCNN, pixels: np.ndarray) -> None:
    maxout = {"scales": [64, 96, 128], "box_voting": 0.5}
    at_test, at_all = (
        combined([c4], **maxout, proposal_scales=which).predict(pixels) for which in ("test", "all")
    )
    assert isinstance(at_test, Detections) and isinstance(at_all, Detections)
    assert not torch.equal(at_test.scores[:3], at_all.scores[:3])
    # a threshold of the call takes from the end and moves no box
    thresh = float(at_test.scores[2])
    few = combined([c4], **maxout).predict(pixels, score_thresh=thresh)
    assert isinstance(few, Detections) and 0 < len(few) <= 2
    torch.testing.assert_close(few.boxes, at_test.boxes[: len(few)])


def test_no_proposal_and_no_detection(fpn: RCNN, c4: RCNN, pixels: np.ndarray) -> None:
    for model in (fpn, c4):
        both = combined([model], refine=True, flip=True, scales=[64, 96], box_voting=0.5)
        none = both.predict(pixels, score_thresh=1.0)
        assert isinstance(none, Detections) and len(none) == 0
        assert none.mask_probs is not None and none.masks is not None
        model.rpn.min_size = 1e6
        empty = both.predict([pixels, pixels], batch_size=2)
        model.rpn.min_size = 0.0
        assert [len(each) for each in empty] == [0, 0]


def test_limits_of_the_model_hold(pixels: np.ndarray) -> None:
    model = detector(
        {"detections_per_image": 3, "min_detection_size": 20, "roi": {"mask_head": None}}
    )
    for merge in ("nms", "soft_nms", "wbf"):
        found = combined([model], flip=True, merge=merge, refine=True).predict(pixels)
        assert isinstance(found, Detections) and 0 < len(found) <= 3
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]) * (96 / 120)
        assert sides.min() >= 20 - 0.1 and found.scores.min() > 0.2


def test_what_does_not_fit(
    fpn: RCNN, c4: RCNN, monkeypatch: pytest.MonkeyPatch, pixels: np.ndarray
) -> None:
    with pytest.raises(UserError, match=r"adjacent needs a network of one map"):
        combined([c4, fpn], scales=[64, 96], multi_scale="adjacent")
    other = detector({"roi": {"mask_head": None}})
    other.class_names = ["class 0", "dirt"]
    message = r"run 1: an ensemble needs the same classes.*run 1 lacks class 1; run 1 adds dirt"
    with pytest.raises(UserError, match=message):
        combined([fpn, other])
    other.class_names = fpn.class_names
    # without masks in the first, none are predicted
    boxes_only = combined([other, fpn])
    assert not boxes_only.has_masks and boxes_only.predict(pixels).masks is None
    monkeypatch.setattr(branches, "BRANCHES", dict(branches.BRANCHES))
    import importlib

    importlib.reload(importlib.import_module("tests.models.colour_branch"))
    own = detector({"roi": {"mask_head": None, "branches": {"colour": {"num_colours": 2}}}})
    with pytest.raises(UserError, match=r"branches.colour: Colour does not say.*merge_views"):
        combined([own], flip=True)
    found = combined([own], refine=True, box_voting=0.5).predict(pixels)
    assert found.extra["colour"].shape == (len(found),), "one view: nothing to merge"


def test_load_makes_ensembles_and_takes_switches(tmp_path: Path, pixels: np.ndarray) -> None:
    first, second = make_detector(), make_detector()
    with torch.no_grad():
        second.roi_heads.box_heads[0].cls_score.bias[0] += 1
    runs = [tmp_path / "a" / "best.pt", tmp_path / "b" / "best.pt"]
    for path, model in zip(runs, (first, second), strict=True):
        write_checkpoint(path, model)
    options: dict[str, Any] = {"device": "cpu", "precision": "fp32"}
    both = load(runs, **options)
    assert isinstance(both, CombinedDetector) and both.device.type == "cpu"
    assert_close(both.predict(pixels), combined([first, second]).predict(pixels))
    one = load(runs[0], **options)
    assert isinstance(one, RCNN) and isinstance(load(runs[:1], **options), RCNN)
    test = {"flip": True, "scales": [64, 96], "merge": "wbf"}
    seen = load(runs[0], test=test, **options)
    assert isinstance(seen, CombinedDetector) and seen.test.scales == [64, 96]
    assert_close(seen.predict(Image.fromarray(pixels)), combined([first], **test).predict(pixels))
    seen.train()
    seen.predict(pixels)
    assert seen.training and seen.models[0].training
    with pytest.raises(UserError, match=r"no model is given"):
        load([])
    with pytest.raises(UserError, match=r"test.flop.*flip"):
        load(runs, test={"flop": True})
    seen = load(runs[0], test={"scales": np.array([64, 96])}, **options)
    assert isinstance(seen, CombinedDetector) and seen.test.scales == [64, 96]
    with pytest.raises(UserError, match=r"test.flip: .* is not a value that a config has"):
        load(runs, test={"flip": object()})
