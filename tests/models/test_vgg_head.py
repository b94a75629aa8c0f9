"""Faster R-CNN on VGG-16: fc6 and fc7 of torchvision's classifier are the head of each region."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import resdet
from resdet.config.loading import config_from_dict
from resdet.errors import UserError
from resdet.factory import build_model, load_start_weights
from resdet.factory.network import resolve_config
from resdet.interop.convert import describe_network
from resdet.models.rcnn import RCNN
from tests.models.tiny import merged, nuclei_batch
from tests.models.tiny_detector import write_checkpoint

WIDTH = 48
"""Of fc6 and fc7; 4096 in the published network, whose fc6 has 411 MB."""
VALUES: dict[str, Any] = {
    "train": {"max_steps": 1, "precision": "fp32"},
    "data": {"test_resize": {"short_edge": 64}},
    "model": {
        "backbone": {"name": "vgg16", "freeze_at": 1},
        "fpn": None,
        "rpn": {
            "anchor_sizes": [[16, 32, 64]],
            "pre_nms_topk_train": 200,
            "post_nms_topk_train": 50,
            "post_nms_topk_test": 20,
        },
        "roi": {
            "num_samples": 16,
            "mask_head": None,
            "box_head": {"type": "vgg", "fc_dim": WIDTH},
        },
        "score_thresh": 0.0,
    },
}
# A step's losses of a fixed seed (1e-4 relative), with context as well.
RPN_LOSSES = {"loss_rpn_cls": 0.658961, "loss_rpn_box": 0.0480551}
PINNED: dict[bool, dict[str, float]] = {
    False: {**RPN_LOSSES, "loss_cls": 1.08431, "loss_box": 0.0112914},
    True: {**RPN_LOSSES, "loss_cls": 1.17038, "loss_box": 0.0114977},
}


def classifier(width: int = WIDTH) -> nn.Module:
    """torchvision's VGG-16 with narrow hidden layers and seeded weights that keep the scale."""
    torch.manual_seed(3)
    with torch.device("meta"):
        model = torchvision.models.vgg16(weights=None, init_weights=False)
        model.classifier[0] = nn.Linear(512 * 7 * 7, width)
        model.classifier[3] = nn.Linear(width, width)
        model.classifier[6] = nn.Linear(width, 1000)
    model = model.to_empty(device="cpu")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        else:
            nn.init.uniform_(parameter, -0.1, 0.1)
    return model.eval()


def detector(changes: dict[str, Any] | None = None) -> tuple[RCNN, list[str]]:
    config = config_from_dict(merged(VALUES, {"model": changes or {}}), "the test")
    torch.manual_seed(0)
    model = build_model(config, class_names=["cell", "dirt"], category_ids=[1, 2])
    return model, load_start_weights(model, resolve_config(config))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's file under torchvision's names."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(classifier().state_dict(), path)
    return path


def test_the_head_computes_torchvisions_layers(published: Path, nuclei: Path) -> None:
    model, lines = detector({"backbone": {"weights": str(published)}})
    assert lines[-1] == (
        "fc6 and fc7 of the box head: head.classifier.0.weight, head.classifier.0.bias, "
        "head.classifier.3.weight, head.classifier.3.bias"
    )
    assert not any("left out" in line and "classifier.0" in line for line in lines)
    theirs = classifier()
    images, _ = nuclei_batch(nuclei)
    boxes = torch.tensor(
        [[3.0, 5.0, 90.0, 70.0], [40.0, 10.0, 120.0, 120.0], [0.0, 0.0, 30.0, 9.0]]
    )
    rows = torch.tensor([0, 1, 1])
    model.eval()
    with torch.no_grad():
        features = model.roi_heads.features(model.levels(images))
        ours = model.roi_heads.hidden(features, boxes, rows, images.sizes)
        # conv5_3 with its ReLU, before pool5
        conv5 = theirs.features[:30](model.normalize(images))
        regions = torch.cat([rows[:, None].float(), boxes], dim=1)
        pooled = torchvision.ops.roi_align(conv5, regions, 7, 1 / 16, 0, True)
        fc7 = theirs.classifier[:6](pooled.flatten(1))
    torch.testing.assert_close(ours, fc7, rtol=1e-5, atol=1e-5)
    assert ours.abs().mean() > 0.1


def test_the_first_two_groups_stay_as_they_are(published: Path) -> None:
    """As in py-faster-rcnn, where conv1 and conv2 have a rate of 0."""
    model, _ = detector({"backbone": {"weights": str(published)}})
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {name.split(".")[2] for name in frozen} == {"0", "2", "5", "7"}
    assert len(frozen) == 8


@pytest.mark.parametrize("context", [False, True])
def test_a_step(context: bool, published: Path, nuclei: Path) -> None:
    changes = {"backbone": {"weights": str(published)}, "roi": {"context": context}}
    model, _ = detector(changes)
    images, targets = nuclei_batch(nuclei)
    model.train()
    torch.manual_seed(1)
    losses = model(images, targets, seed=0, step=0)
    found = {name: loss.item() for name, loss in losses.items()}
    assert found == pytest.approx(PINNED[context], rel=1e-4)
    sum(losses.values(), torch.zeros(())).backward()
    fc6 = model.roi_heads.box_heads[0].get_parameter("fcs.0.weight")
    assert fc6.grad is not None and fc6.grad.abs().sum() > 0


def test_dropout_is_vggs_and_an_option(published: Path) -> None:
    def rates(changes: dict[str, Any]) -> list[float]:
        model, _ = detector({"roi": {"box_head": changes}, "backbone": {"freeze_at": 0}})
        return [m.p for m in model.roi_heads.modules() if isinstance(m, nn.Dropout)]

    assert rates({}) == [0.5, 0.5]
    assert rates({"dropout": 0.25}) == [0.25, 0.25]
    assert rates({"dropout": 0.0}) == []
    assert rates({"type": "fc"}) == []
    model, _ = detector({"backbone": {"weights": str(published)}})
    pooled = torch.rand(4, 512, 7, 7)
    head = model.roi_heads.box_heads[0]
    assert (head.train().embed(pooled) == 0).float().mean() > 0.6
    assert torch.equal(head.eval().embed(pooled), head.embed(pooled))


@pytest.mark.parametrize(
    ("keep", "width", "message"),
    [
        (lambda key: key.startswith("features."), WIDTH, "holds no fc6 and fc7"),
        (lambda key: "classifier.3" not in key, WIDTH, "holds no fc6 and fc7"),
        (lambda key: True, WIDTH + 1, f"set model.roi.box_head.fc_dim={WIDTH + 1}"),
    ],
)
def test_weights_that_cannot_fill_the_head(
    keep: Any, width: int, message: str, tmp_path: Path
) -> None:
    state = {k: v for k, v in classifier(width).state_dict().items() if keep(k)}
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match=message):
        detector({"backbone": {"weights": str(tmp_path / "vgg16.pth")}})


def test_layers_of_nan_count_as_absent(tmp_path: Path) -> None:
    """torchvision's IMAGENET1K_FEATURES has such a classifier."""
    state = classifier().state_dict()
    state |= {k: torch.full_like(v, torch.nan) for k, v in state.items() if "classifier" in k}
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(UserError, match=r"such as torchvision:vgg16\.IMAGENET1K_V1"):
        detector({"backbone": {"weights": str(tmp_path / "vgg16.pth")}})


def test_a_trained_one_is_loaded_described_and_gives_its_layers(
    published: Path, nuclei: Path, tmp_path: Path
) -> None:
    model, _ = detector({"backbone": {"weights": str(published)}})
    path = write_checkpoint(tmp_path / "run" / "best.pt", model)
    again = resdet.load(path.parent, device="cpu")
    image = next((nuclei / "images").iterdir())
    assert torch.equal(again.predict(image).boxes, model.predict(image).boxes)
    assert describe_network(model.config) == (
        "vgg16 with norm of its own, no pyramid, the heads on c4, 1 box stage of 2 layers of 48, "
        "boxes only"
    )
    other, lines = detector({"backbone": {"weights": str(path)}})
    assert lines[-1].startswith("fc6 and fc7 of the box head: roi_heads.stages.0.fcs.0.weight")
    fc7 = "roi_heads.stages.0.fcs.2.weight"
    assert torch.equal(other.state_dict()[fc7], model.state_dict()[fc7])


def test_it_needs_a_vgg_without_a_pyramid() -> None:
    with pytest.raises(UserError, match=r"is not a VGG; set model\.backbone\.name=vgg16"):
        detector({"backbone": {"name": "resnet18", "freeze_at": 0}})
    with pytest.raises(UserError, match="type vgg needs fpn: null"):
        detector({"fpn": {}})
