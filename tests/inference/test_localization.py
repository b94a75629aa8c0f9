"""Guesses of RPNs, of R-CNNs on proposals and of their ensembles, against plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from resdet.config.loading import load_config
from resdet.config.localization import LocalizationConfig
from resdet.data.localization.dataset import TestImage
from resdet.data.localization.regions import regions_of
from resdet.errors import UserError
from resdet.factory.localization import build_localizer
from resdet.files.findings import DataError
from resdet.files.proposals import Proposals
from resdet.inference.localization import (
    Guesser,
    RegionGuesser,
    RPNGuesser,
    RPNProposals,
    StoredProposals,
)
from resdet.models.localizer import Localizer
from resdet.models.region_classifier import RegionClassifier
from resdet.ops.boxes import decode_boxes
from tests.engine.loc_data import NAMES, write_config, write_proposals, write_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, and proposals for both classes in each."""
    folder = tmp_path_factory.mktemp("loc")
    write_proposals(folder / "p.npz", write_shapes(folder / "d"))
    return folder


def build(folder: Path, model_type: str, seed: int, **sections: object) -> torch.nn.Module:
    """A network with random weights, predictors that differ between boxes included."""
    if model_type == "rcnn":
        sections["data"] = {"proposals": {"train": str(folder / "p.npz")}, "size": 32}
    path = write_config(folder / f"{model_type}.yaml", folder / "d", model_type, **sections)
    torch.manual_seed(seed)
    config = load_config(path, schema=LocalizationConfig)
    model = build_localizer(config, class_names=NAMES, category_ids=[1, 2]).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("cls_score", "bbox_pred")):
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def image_of(guesser: Guesser, index: int = 0) -> TestImage:
    pixels = np.random.default_rng(index).integers(0, 256, (48, 64, 3), np.uint8)
    return TestImage(guesser.views(pixels), (48, 64), 0, index + 1, "a.png", index)


def stored(folder: Path, count: int = 5) -> StoredProposals:
    proposals = Proposals(folder / "p.npz", [1], np.array([[48, 64]]), NAMES)
    return StoredProposals(proposals, count, NAMES)


def test_an_r_cnn_answers_with_its_best_refined_proposal(folder: Path) -> None:
    model, source = build(folder, "rcnn", 0), stored(folder)
    assert isinstance(model, RegionClassifier)
    guesser = RegionGuesser([model], source, batch_size=3, workers=2)
    image, labels = image_of(guesser), torch.tensor([1, 0])
    with torch.no_grad():
        (answer,) = guesser.guess([image], [labels])
    assert answer.labels.tolist() == [1, 0]
    pixels = image.views[0].pixels
    for row, label in enumerate((1, 0)):
        boxes, _ = source.proposals.of_class(0, label, 5)
        assert len(boxes) == 5
        best, best_box = -1.0, None
        for box in boxes:
            crops, regions = model.cut(pixels, box[None])
            with torch.no_grad():
                hidden = model.pooled(model.to_input(crops))
                score = model.cls_score(hidden)[0, label].sigmoid().item()
                deltas = model.bbox_pred(hidden)[0, 4 * label : 4 * label + 4]
            if score > best:
                frame = torch.from_numpy(regions.frames)[0]
                best, best_box = score, decode_boxes(deltas, frame, (10.0, 10.0, 5.0, 5.0))
        assert answer.scores[row].item() == pytest.approx(best, rel=1e-4)
        assert best_box is not None
        wanted = torch.minimum(best_box.clamp(min=0), torch.tensor([64.0, 48, 64, 48]))
        torch.testing.assert_close(answer.boxes[row], wanted, atol=1e-2, rtol=1e-4)


def test_an_ensemble_of_r_cnns_averages_scores_and_deltas(folder: Path) -> None:
    members = [build(folder, "rcnn", 0), build(folder, "rcnn", 1)]
    guesser = RegionGuesser(members, stored(folder))  # type: ignore[arg-type]
    image = image_of(guesser)
    pixels = image.views[0].pixels
    boxes = np.array([[3.0, 4, 30, 40], [10, 2, 60, 47]], np.float32)
    labels = torch.tensor([0, 1])
    scores, refined = guesser.rescore(pixels, boxes, labels)
    for row in range(2):
        answers = [m.answer(m.cut(pixels, boxes[[row]])[0], labels[[row]]) for m in members]  # type: ignore[operator]
        assert scores[row].item() == pytest.approx(
            sum(a.scores.item() for a in answers) / 2, rel=1e-4
        )
        deltas = (answers[0].deltas[0] + answers[1].deltas[0]) / 2
        frame = torch.from_numpy(regions_of(boxes[[row]]).frames)[0]
        wanted = decode_boxes(deltas, frame, (1.0, 1.0, 1.0, 1.0))
        wanted = torch.minimum(wanted.clamp(min=0), torch.tensor([64.0, 48, 64, 48]))
        torch.testing.assert_close(refined[row], wanted, atol=1e-2, rtol=1e-4)


def test_a_class_without_stored_proposals_is_named(folder: Path) -> None:
    shapes = write_shapes(folder / "own", 2)
    write_proposals(folder / "own.npz", shapes, both_classes=False)
    proposals = Proposals(folder / "own.npz", [1], np.array([[48, 64]]), NAMES)
    guesser = RegionGuesser(
        [build(folder, "rcnn", 0)],  # type: ignore[list-item]
        StoredProposals(proposals, 5, NAMES),
    )
    with pytest.raises(DataError, match="image 1: no proposals of class disc"):
        guesser.guess([image_of(guesser)], [torch.tensor([1, 0])])


def rpns(folder: Path, **sections: object) -> list[Localizer]:
    test = {"test": {"views": "dense", "scales": [64], "flip": True}, **sections}
    models = [build(folder, "rpn", seed, **test) for seed in (0, 1)]
    assert all(isinstance(model, Localizer) for model in models)
    return models  # type: ignore[return-value]


def test_an_ensemble_of_rpns_averages_anchor_by_anchor(folder: Path) -> None:
    members = rpns(folder)
    guesser, labels = RPNGuesser(members), torch.tensor([1, 0])
    image = image_of(guesser)
    with torch.no_grad():
        (answer,) = guesser.guess([image], [labels])
        halves = [image.views[:2], image.views[2:]]
        pairs = [
            member.candidates(member.look([own])[0], own, labels, image.size)
            for member, own in zip(members, halves, strict=True)
        ]
    for row in range(2):
        scores = [(a + b) / 2 for a, b in zip(pairs[0][0][row], pairs[1][0][row], strict=True)]
        usable = [
            score.item()
            if (box := (pairs[0][1][row, i] + pairs[1][1][row, i]) / 2)[2] > box[0]
            and box[3] > box[1]
            else -1.0
            for i, score in enumerate(scores)
        ]
        best = int(np.argmax(usable))
        box = (pairs[0][1][row, best] + pairs[1][1][row, best]) / 2
        assert answer.scores[row].item() == pytest.approx(usable[best], rel=1e-5)
        torch.testing.assert_close(answer.boxes[row], box)
    single = RPNGuesser(members[:1])
    own = image_of(single)
    with torch.no_grad():
        (one,) = single.guess([own], [labels])
        (same,) = members[0].guess([own.views], [own.size], [labels])
    torch.testing.assert_close(one.boxes, same.boxes)


def test_proposals_of_several_rpns_are_their_union(folder: Path) -> None:
    members = rpns(folder)
    # the R-CNN may have its classes in another order
    source = RPNProposals(members, 7, NAMES[::-1])
    guesser = RegionGuesser([build(folder, "rcnn", 0)], source)  # type: ignore[list-item]
    image = image_of(guesser)
    views = guesser.views.of(image.views, 1)
    assert len(views) == 4
    with torch.no_grad():
        first, second = source.boxes(image, views, torch.tensor([0, 1]))
        for part, member in enumerate(members):
            own = views[2 * part : 2 * part + 2]
            (found,) = member.propose([own], [image.size], [torch.tensor([1, 0])], 7)
            for boxes, label in ((first, 1), (second, 0)):
                wanted = found.boxes[found.labels == label].numpy()
                for box in wanted:
                    assert np.abs(boxes - box).max(axis=1).min() == 0
    assert 7 < len(first) <= 14


def test_members_that_do_not_fit_are_refused(folder: Path) -> None:
    first, second = rpns(folder)
    second.class_names = ["disc", "ring"]
    with pytest.raises(UserError, match="need the same classes"):
        RPNGuesser([first, second])
    with pytest.raises(UserError, match=r"does not know 1 class\(es\) of the R-CNN: square"):
        RPNProposals([second], 5, NAMES)
    other = build(folder, "rpn", 0, test={"views": "dense", "scales": [96], "flip": True})
    mixed = RPNGuesser([first, other])  # type: ignore[list-item]
    with pytest.raises(UserError, match="need the same anchors"):
        mixed.guess([image_of(mixed)], [torch.tensor([0])])
