"""A branch of the user's own learns a value per object and predicts it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from resdet.errors import UserError
from resdet.interop.classes import fit_branches
from resdet.models import branches
from resdet.models.rcnn import RCNN
from tests.models.test_fixed_slots import C4
from tests.models.tiny import merged, nuclei_batch, tiny_model

COLOUR = {"roi": {"branches": {"colour": {"num_colours": 2}}}}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(branches, "BRANCHES", dict(branches.BRANCHES))
    importlib.reload(importlib.import_module("tests.models.colour_branch"))


@pytest.mark.parametrize("base", [{}, {"roi": {"mask_head": None}}, C4])
@pytest.mark.parametrize("fixed", [False, True])
def test_it_learns_and_detects(base: dict, fixed: bool, nuclei: Path) -> None:
    model: RCNN = tiny_model(merged(base, COLOUR)).train()
    model.set_fixed_slots(fixed)
    images, targets = nuclei_batch(nuclei)
    targets.extra["colour"] = targets.labels  # what looks alike has one colour
    losses = model(images, targets, seed=0, step=0)
    assert losses["loss_colour"] > 0
    losses["loss_colour"].backward()
    score = model.roi_heads.branches["colour"].score
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in score.parameters())

    with torch.no_grad():  # one colour for all
        score.weight.zero_()
        score.bias.copy_(torch.tensor([0.0, 1.0]))
    model.eval()
    found = model.infer(images, [(128, 128)] * 2)[0]
    assert len(found) > 1 and found.extra["colour"].tolist() == [1] * len(found)
    assert (found.mask_probs is None) == (not model.has_masks)
    assert len(found[:1].extra["colour"]) == 1
    assert [record["colour"] for record in found.to_coco(7)] == [1] * len(found)
    assert repr(found).endswith("colour)")


def test_names_and_order_of_parameters_stay() -> None:
    plain, own = tiny_model(), tiny_model(COLOUR)
    names, more = list(dict(plain.named_parameters())), list(dict(own.named_parameters()))
    assert more == [*names, "roi_heads.colour.score.weight", "roi_heads.colour.score.bias"]
    first, last = (next(i for i, n in enumerate(names) if part in n) for part in ("stages", "mask"))
    assert first < last
    # weights without the branch start it from scratch, and those with it are used without it
    state, lines = fit_branches(own.state_dict(), plain.state_dict())
    assert state.keys() == own.state_dict().keys() and lines[0].startswith("no colour there")
    state, lines = fit_branches(plain.state_dict(), own.state_dict())
    assert state.keys() == plain.state_dict().keys() and lines[0].startswith("left out, the colour")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"color": {}}, r"model\.roi\.branches: no branch 'color'; did you mean colour\?"),
        ({"x": {}}, r"branches: no branch 'x'; import the module"),
        (
            {"colour": {"colours": 2}},
            r"does not accept colours; it accepts num_colours, pool_size",
        ),
        ({"colour": {}}, r"branches: colour refuses \{\}: .*num_colours"),
        ({"mask_head": {}}, r"mask_head has a section of its own"),
    ],
)
def test_mistakes_are_explained(given: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_model({"roi": {"branches": given}})


def test_a_name_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(branches.BRANCHES, "stages", branches.BRANCHES["colour"])
    with pytest.raises(UserError, match=r"branches\.stages: the name is taken"):
        tiny_model({"roi": {"branches": {"stages": {"num_colours": 2}}}})
