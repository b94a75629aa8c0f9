"""A detector and data set so small that a training step takes a tenth of a second."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from resdet.files import checkpoint
from tests.engine.kill_server import KillServer

YAML = """
model:
  backbone: {{name: resnet18, norm: gn}}
  fpn: {{out_channels: 16}}
  rpn:
    anchor_sizes: [4, 8, 16, 32, 64]
    num_samples: 32
    pre_nms_topk_train: 100
    post_nms_topk_train: 50
    pre_nms_topk_test: 50
    post_nms_topk_test: 20
  roi:
    num_samples: 16
    box_head: {{fc_dim: 16}}
    mask_head: {{num_convs: 1, conv_dim: 8}}
data:
  train: {{images: {images}, annotations: {folder}/train.json}}
  val: {{images: {images}, annotations: {folder}/val.json}}
  workers: 0
  mask_size: 28
  augment: {{resize: {{short_edges: [64], max_size: 64}}}}
  test_resize: {{short_edge: 64, max_size: 64}}
optim: {{lr: 0.02, reference_batch: 2, warmup_steps: 2, milestones: [5]}}
train: {{max_steps: 4, batch_size: 2, precision: fp32}}
log: {{every: 1, tensorboard: false, report: false}}
checkpoint: {{every: 100}}
eval: {{every: 0}}
"""


@dataclass
class Tiny:
    """The files of the tiny task."""

    config: Path
    backbone: Path
    """ResNet-18 weights with batch norm statistics of their own."""


def subset(source: Path, count: int) -> dict:
    """The first images of one size of a COCO file."""
    found = json.loads(source.read_text())
    images = [i for i in found["images"] if (i["height"], i["width"]) == (256, 256)][:count]
    assert len(images) == count
    kept = {image["id"] for image in images}
    annotations = [a for a in found["annotations"] if a["image_id"] in kept]
    return {**found, "images": images, "annotations": annotations}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, nuclei: Path) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    config = write_tiny(folder, nuclei, folder / "tiny.yaml")
    return Tiny(config, write_backbone(folder / "resnet18.pt"))


def write_tiny(folder: Path, nuclei: Path, config: Path) -> Path:
    """Ten training and three validation images in `folder`, and their config."""
    folder.mkdir(exist_ok=True)
    for name, count in (("train", 10), ("val", 3)):
        part = subset(nuclei / "annotations" / f"{name}.json", count)
        (folder / f"{name}.json").write_text(json.dumps(part))
    config.write_text(YAML.format(images=nuclei / "images", folder=folder))
    return config


def write_backbone(path: Path) -> Path:
    from resdet.backbones import build_backbone

    torch.manual_seed(5)
    backbone = build_backbone("resnet18", {"norm": "bn"})
    backbone.train()
    with torch.no_grad():
        for _ in range(3):
            backbone(torch.randn(2, 3, 64, 64))
    torch.save(backbone.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def server(repo: Path) -> Iterator[KillServer]:
    """Starts commands in processes of their own."""
    server = KillServer(repo)
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def figures(blank_figures: None) -> None:
    """A file some of whose figures are drawn has its own fixture of this name."""


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Training sets what belongs to a whole process; the next test gets it as it was."""
    logger = logging.getLogger("resdet")
    kept = logger.level, list(logger.handlers), logger.propagate
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    logger.setLevel(kept[0])
    logger.handlers[:], logger.propagate = kept[1:]
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(was)


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def losses_of(run: Path) -> dict[int, dict[str, float]]:
    """Every loss by step."""
    return {
        line["step"]: {k: v for k, v in line.items() if k.startswith("loss") or k == "lr"}
        for line in log_of(run)
        if "loss" in line
    }


def assert_same_end(first: Path, second: Path) -> None:
    """Two runs have the same losses, metrics, weights and optimizer state, to the last bit."""
    assert losses_of(first) == losses_of(second)
    metrics = [[line.get("eval") for line in log_of(run)] for run in (first, second)]
    assert metrics[0] == metrics[1]
    one, two = (checkpoint.load(run / "last.pt") for run in (first, second))
    for part in ("model", "ema"):
        for name, tensor in (one[part] or {}).items():
            assert torch.equal(tensor, two[part][name]), name
    for number, state in one["optimizer"]["state"].items():
        for name, tensor in state.items():
            other = two["optimizer"]["state"][number][name]
            assert tensor is other or torch.equal(tensor, other), name
    assert one["best"] == two["best"]
