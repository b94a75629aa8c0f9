"""The same weights give torchvision's logits on real images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from resdet.backbones import build_backbone
from resdet.factory.classification import build_trained_classifier
from resdet.interop.torchvision.classifiers import CLASSIFIERS, imported
from resdet.models.classifier import Classifier
from tests.backbones.classifiers import without_dropout

QUICK = ("resnet18", "resnet50", "googlenet")
LIMIT = 1e-4
WNIDS = ("n01440764", "n02099601", "n03594945", "n07753592")


@pytest.fixture(scope="module")
def images(shared_data: Path) -> Tensor:
    """Four photographs (4, 3, 224, 224) uint8 RGB."""
    pixels = []
    for wnid in WNIDS:
        path = next((shared_data / "imagenet1k_sample_256" / "images" / wnid).iterdir())
        image = np.asarray(Image.open(path).convert("RGB"))
        top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
        pixels.append(torch.from_numpy(image[top : top + 224, left : left + 224].copy()))
    return torch.stack(pixels).permute(0, 3, 1, 2)


def published_input(images: Tensor) -> Tensor:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return torchvision.transforms.functional.normalize(images / 255, mean, std)


def their_model(name: str, inputs: Tensor) -> nn.Module:
    """With weights at which nothing vanishes or explodes, batch statistics from the images."""
    torch.manual_seed(7)
    options = {"init_weights": False} if name.startswith(("vgg", "googlenet")) else {}
    if name == "googlenet":
        options |= {"transform_input": True, "aux_logits": True}
    model = getattr(torchvision.models, name)(weights=None, **options)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in))
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = None
    for module in model.modules():
        # As in trained networks: with branches as large as their shortcuts, 50 blocks would blow up
        # the last bit in which (x / 255 - mean) / std depends on the order of operations.
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            nn.init.uniform_(module.bn3.weight, 0.1, 0.3)
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with torch.no_grad():
            model.train()(inputs)
    return model.eval()


def our_model(name: str, theirs: nn.Module) -> Classifier:
    weights = imported(theirs.state_dict(), f"{name}.IMAGENET1K_V1", "the test")
    return build_trained_classifier(weights)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CLASSIFIERS],
)
@torch.no_grad()
def test_logits_equal_torchvisions(name: str, images: Tensor) -> None:
    inputs = published_input(images)
    theirs = their_model(name, inputs)
    expected = theirs(inputs)
    assert 0.3 < expected.std() < 30
    assert (expected[0] - expected[1]).abs().max() > 0.1
    ours = our_model(name, theirs)
    del theirs
    (logits,) = ours(ours.normalize(images))
    assert (logits - expected).abs().max() <= LIMIT
    dense = ours.dense(ours.normalize(images[:1]))
    torch.testing.assert_close(dense[:, :, 0, 0], logits[:1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_auxiliary_logits_equal_torchvisions(images: Tensor) -> None:
    inputs = published_input(images)
    theirs = without_dropout(their_model("googlenet", inputs)).train()
    ours = without_dropout(our_model("googlenet", theirs)).train()
    expected = theirs(inputs)
    logits, first, second = ours(ours.normalize(images))
    for name, value in (("logits", logits), ("aux_logits1", first), ("aux_logits2", second)):
        # torchvision names the second auxiliary classifier before the first
        reference = getattr(expected, name)
        assert reference.std() > 0.3
        assert (value - reference).abs().max() <= LIMIT, name
    assert len(ours.eval()(ours.normalize(images))) == 1


@pytest.mark.parametrize(("name", "norm"), [("vgg16", "none"), ("vgg19", "bn")])
@torch.no_grad()
def test_vgg_maps_equal_torchvisions(name: str, norm: str, images: Tensor) -> None:
    """Without the fully connected layers, which take seconds to fill: the slow test has them."""
    torch.manual_seed(7)
    layout = torchvision.models.vgg.cfgs[{"vgg16": "D", "vgg19": "E"}[name]]
    theirs = torchvision.models.vgg.make_layers(layout, batch_norm=norm == "bn").eval()
    ours = build_backbone(name, {"norm": norm}).eval()
    theirs.load_state_dict(ours.features.state_dict())
    inputs = published_input(images)[:2, :, :96, :64]
    expected = theirs(inputs)
    assert expected.std() > 0.1
    features = ours(inputs)
    torch.testing.assert_close(features["c5"], expected, rtol=1e-5, atol=1e-5)
    pooled = nn.functional.max_pool2d(features["c4"], 2)
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)
