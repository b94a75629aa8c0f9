"""Detectors' weights put into detectors of other classes, heads and conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resdet.config.loading import config_to_dict
from resdet.errors import UserError
from resdet.interop.fitting import load_detector
from resdet.models.rcnn import RCNN
from tests.models.tiny import tiny_model

AGNOSTIC_CASCADE: dict[str, Any] = {
    "roi": {
        "stages": [{"foreground_iou": 0.5}, {"foreground_iou": 0.6}],
        "box_head": {"class_agnostic": True},
    }
}
LOGITS, DELTAS = "roi_heads.stages.0.cls_score", "roi_heads.stages.0.bbox_pred"
MASKS = "roi_heads.mask_head.predictor"


def named(names: list[str], changes: dict[str, Any] | None = None, seed: int = 0) -> RCNN:
    model = tiny_model(changes, classes=len(names), seed=seed)
    model.class_names = names
    with torch.no_grad():
        for parameter in model.roi_heads.parameters():
            # biases begin at 0 on both sides, which would hide a row that was not copied
            parameter.copy_(torch.randn(parameter.shape))
    return model


def write(path: Path, model: RCNN, **more: Any) -> str:
    checkpoint = {
        "format": 1,
        "kind": "detector",
        "config": config_to_dict(model.config),
        "class_names": model.class_names,
        "category_ids": list(range(1, 1 + len(model.class_names))),
        "model": model.state_dict(),
        **more,
    }
    torch.save(checkpoint, path)
    return str(path)


def section(model: RCNN, **changes: Any) -> dict[str, Any]:
    return {**model.config.model.model_dump(mode="json"), **changes}


def rows(state: dict[str, torch.Tensor], key: str, label: int, each: int = 1) -> torch.Tensor:
    return torch.cat(
        [state[f"{key}.{part}"][each * label : each * (label + 1)].flatten() for part in PARTS]
    )


PARTS = ("weight", "bias")


@pytest.fixture(scope="module")
def there() -> RCNN:
    return named(["person", "cat", "Dog", "owl"], seed=1)


@pytest.fixture(scope="module")
def file(there: RCNN, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("there") / "best.pt", there)


def test_the_same_classes_take_every_tensor(file: str, there: RCNN) -> None:
    here = named(list(there.class_names))
    assert load_detector(here, file, section(here)) == [f"detector weights: {file}"]
    assert all(torch.equal(value, there.state_dict()[k]) for k, value in here.state_dict().items())


def test_classes_are_matched_by_name(file: str, there: RCNN) -> None:
    """Their rows come from the weights, background's too; the others keep their start values."""
    here = named(["OWL", "cell", "dog"])
    before = {key: value.clone() for key, value in here.state_dict().items()}
    lines = load_detector(here, file, section(here))
    assert lines[1] == "4 classes there, 3 here; 2 matched: OWL from owl, dog from Dog"
    assert lines[2] == "1 classes start from scratch: cell"
    keys = [f"{key}.{part}" for key in (LOGITS, DELTAS, MASKS) for part in PARTS]
    start, listed = lines[3].split(": ")
    assert start == "their rows start from scratch in these layers"
    assert set(listed.split(", ")) == set(keys)
    theirs, after = there.state_dict(), here.state_dict()
    for key, each in ((LOGITS, 1), (DELTAS, 4), (MASKS, 1)):
        assert torch.equal(rows(after, key, 0, each), rows(theirs, key, 3, each))
        assert torch.equal(rows(after, key, 1, each), rows(before, key, 1, each))
        assert torch.equal(rows(after, key, 2, each), rows(theirs, key, 2, each))
    assert torch.equal(rows(after, LOGITS, 3), rows(theirs, LOGITS, 4))
    others = [key for key in after if key not in keys]
    assert all(torch.equal(after[key], theirs[key]) for key in others)


def test_names_that_differ_in_case_alone(tmp_path: Path) -> None:
    there = named(["cat", "CAT", "Cat"], seed=1)
    here = named(["Cat", "cAT"])
    load_detector(here, write(tmp_path / "w.pt", there))
    after, theirs = here.state_dict(), there.state_dict()
    # the very name first, then the first that differs in case
    assert torch.equal(rows(after, MASKS, 0), rows(theirs, MASKS, 2))
    assert torch.equal(rows(after, MASKS, 1), rows(theirs, MASKS, 0))


def test_the_class_map_comes_first(file: str, there: RCNN) -> None:
    here = named(["cat", "RBC", "WBC"])
    lines = load_detector(here, file, section(here, class_map={"RBC": "person", "cat": "owl"}))
    assert "2 matched: cat from owl, RBC from person" in lines[1]
    after, theirs = here.state_dict(), there.state_dict()
    assert torch.equal(rows(after, DELTAS, 0, 4), rows(theirs, DELTAS, 3, 4))
    assert torch.equal(rows(after, DELTAS, 1, 4), rows(theirs, DELTAS, 0, 4))


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ({"RBS": "person"}, "model.class_map: the data has no class 'RBS'; did you mean RBC?"),
        ({"RBC": "persn"}, r"model.class_map.RBC: .*best.pt has no class 'persn'; did you mean pe"),
        ({"RBC": "zzz"}, "no class 'zzz'; it has person, cat, Dog, owl"),
    ],
)
def test_unknown_names_in_the_class_map(file: str, class_map: dict[str, str], message: str) -> None:
    here = named(["RBC", "WBC", "Platelets"])
    with pytest.raises(UserError, match=message):
        load_detector(here, file, section(here, class_map=class_map))


def test_no_class_in_common(file: str, there: RCNN) -> None:
    here = named(["RBC", "WBC"])
    before = rows({k: v.clone() for k, v in here.state_dict().items()}, LOGITS, 0)
    lines = load_detector(here, file)
    assert lines[1:3] == [
        "4 classes there, 2 here; none of the same name",
        "2 classes start from scratch: RBC, WBC",
    ]
    assert torch.equal(rows(here.state_dict(), LOGITS, 0), before)
    assert torch.equal(rows(here.state_dict(), LOGITS, 2), rows(there.state_dict(), LOGITS, 4))


def test_as_many_classes_of_other_names(file: str, there: RCNN) -> None:
    """Renamed where no name is in common; by name as soon as one is, in whatever order."""
    here = named(["a", "b", "c", "d"])
    assert load_detector(here, file)[1:] == [
        "class names differ: person, cat, Dog, owl there, a, b, c, d here, taken by position"
    ]
    assert torch.equal(rows(here.state_dict(), MASKS, 1), rows(there.state_dict(), MASKS, 1))
    turned = named(["owl", "person", "dog", "elk"])
    lines = load_detector(turned, file)
    assert lines[1] == "4 classes there, 4 here; 3 matched: owl, person, dog from Dog"
    assert lines[2] == "1 classes start from scratch: elk"
    assert torch.equal(rows(turned.state_dict(), MASKS, 0), rows(there.state_dict(), MASKS, 3))


def test_class_agnostic_stages_of_a_cascade(tmp_path: Path) -> None:
    """Of every stage the logits alone know classes; one box for all of them is kept."""
    there = named(["cat", "dog"], AGNOSTIC_CASCADE, seed=1)
    here = named(["dog"], AGNOSTIC_CASCADE)
    load_detector(here, write(tmp_path / "w.pt", there), section(here))
    after, theirs = here.state_dict(), there.state_dict()
    for stage in range(2):
        key = f"roi_heads.stages.{stage}"
        assert torch.equal(rows(after, f"{key}.cls_score", 0), rows(theirs, f"{key}.cls_score", 1))
        assert torch.equal(rows(after, f"{key}.cls_score", 1), rows(theirs, f"{key}.cls_score", 2))
        assert torch.equal(after[f"{key}.bbox_pred.weight"], theirs[f"{key}.bbox_pred.weight"])


def test_a_mask_head_that_one_side_has(file: str, there: RCNN, tmp_path: Path) -> None:
    boxes = named(list(there.class_names), {"roi": {"mask_head": None}})
    line = load_detector(boxes, file)[-1]
    assert line.startswith("left out, the mask head: roi_heads.mask_head.convs.0.0.weight, ")
    assert line.count("roi_heads.mask_head.") == 12
    masks = named(list(there.class_names), seed=2)
    before = {key: value.clone() for key, value in masks.state_dict().items()}
    line = load_detector(masks, write(tmp_path / "w.pt", boxes))[-1]
    assert line.startswith("no mask head there: these layers start from scratch: ")
    for key, value in masks.state_dict().items():
        source = before if key.startswith("roi_heads.mask_head.") else boxes.state_dict()
        assert torch.equal(value, source[key]), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fpn": {"out_channels": 8}}, r"of another shape: fpn.* there, .* here"),
        ({"roi": {"box_head": {"num_fcs": 1}}}, r"unexpected: roi_heads.stages.0.fcs"),
        (
            {"roi": {"stages": [{}, {}], "box_head": {"class_agnostic": True}}},
            r"missing: roi_heads.stages.1.*of another shape: roi_heads.stages.0.bbox_pred",
        ),
        ({"backbone": {"norm": "bn"}}, "model.backbone.norm to gn"),
    ],
)
def test_what_else_does_not_fit_lists_the_keys(
    file: str, changes: dict[str, Any], message: str
) -> None:
    here = named(["cat", "elk"], changes)
    before = {key: value.clone() for key, value in here.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_detector(here, file, section(here))
    assert all(torch.equal(value, before[key]) for key, value in here.state_dict().items())


def test_frozen_norms_take_trained_ones(tmp_path: Path) -> None:
    there = named(["cat"], {"backbone": {"norm": "bn"}}, seed=1)
    here = named(["cat"], {"backbone": {"norm": "frozen_bn"}})
    load_detector(here, write(tmp_path / "w.pt", there), section(here))
    key = "backbone.bn1.running_var"
    assert torch.equal(here.state_dict()[key], there.state_dict()[key])


def test_the_weights_must_be_read_as_they_were_trained(tmp_path: Path) -> None:
    there = named(["cat"], {"channel_order": "bgr"}, seed=1)
    here = named(["cat"])
    with pytest.raises(UserError, match=r"channel_order bgr, but here it is rgb; set model.channe"):
        load_detector(here, write(tmp_path / "w.pt", there), section(here))


def test_other_conventions_are_named(file: str) -> None:
    here = named(["cat", "dog"])
    changed = section(here, pixel_std=[1.0, 1.0, 1.0])
    changed["roi"] = {**changed["roi"], "aligned": False}
    line = load_detector(here, file, changed)[1]
    assert line.startswith("trained by other conventions: model.pixel_std [58.395, 57.12, 57.375] ")
    assert line.endswith("model.roi.aligned true there, false here")


def test_a_file_without_class_names(tmp_path: Path, there: RCNN) -> None:
    file = write(tmp_path / "w.pt", there, class_names=[], config=None)
    here = named(["a", "b", "c", "d"])
    assert len(load_detector(here, file, section(here))) == 1
    with pytest.raises(UserError, match="does not name its classes"):
        load_detector(here, file, section(here, class_map={"a": "cat"}))
    with pytest.raises(UserError, match=r"of another shape: .*cls_score"):
        load_detector(named(["a"]), file)


def test_what_is_no_detector(tmp_path: Path, there: RCNN) -> None:
    torch.save(there.backbone.state_dict(), tmp_path / "w.pt")
    for spec in (str(tmp_path / "w.pt"), "torchvision:resnet18.IMAGENET1K_V1"):
        with pytest.raises(UserError, match=r"detector.*; it belongs to model\.backbone\.weights"):
            load_detector(there, spec)


def test_context_that_only_the_model_has_starts_at_0(file: str, there: RCNN) -> None:
    """Fine-tuning with `model.roi.context` begins with the predictions of the weights."""
    model = named(["cat", "unicorn"], {"roi": {"context": True}}, seed=1)
    fresh = model.state_dict()[f"{LOGITS}.weight"].clone()
    lines = load_detector(model, file, section(model))
    started = next(line for line in lines if line.startswith("no context there"))
    assert started.endswith(f"starts at 0: {LOGITS}.weight, {DELTAS}.weight")
    logits = model.state_dict()[f"{LOGITS}.weight"]
    theirs = there.state_dict()[f"{LOGITS}.weight"]
    width = theirs.shape[1]
    row = there.class_names.index("cat")
    assert torch.equal(logits[0], torch.cat([theirs[row], torch.zeros(width)]))
    assert torch.equal(logits[-1], torch.cat([theirs[-1], torch.zeros(width)]))
    assert torch.equal(logits[1], fresh[1]), "a new class keeps both halves of its initial row"


def test_context_that_only_the_weights_have_is_refused(tmp_path: Path) -> None:
    weights = named(["cat", "dog"], {"roi": {"context": True}})
    file = write(tmp_path / "context.pt", weights)
    model = named(["cat", "dog"])
    with pytest.raises(UserError, match=r"trained with model\.roi\.context true; set it to true"):
        load_detector(model, file, section(model))
