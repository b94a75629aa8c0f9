"""Classification tasks so small that a step takes milliseconds."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

CIFAR_YAML = """
task: classification
model:
  backbone: {{name: cifar_resnet, options: {{depth: 8}}}}
  pixel_mean: per_pixel
  pixel_std: [64, 64, 64]
data:
  root: {root}
  holdout: 20
  size: 32
  test_resize: 32
  test_size: 32
  augment: {{crop: pad}}
optim: {{lr: 0.05, reference_batch: 8, milestones: [6]}}
train: {{max_steps: 6, batch_size: 8, precision: fp32, threads: 1}}
log: {{every: 1, tensorboard: false, report: false}}
checkpoint: {{every: 100}}
eval: {{every: 3, batch_size: 7}}
"""

FOLDER_YAML = """
task: classification
model:
  backbone: {{name: resnet18}}
data:
  train: {{root: {root}/train}}
  val: {{root: {root}/val}}
  size: 32
  test_resize: 36
  test_size: 32
  workers: 0
optim: {{lr: 0.01, reference_batch: 4}}
train: {{max_steps: 3, batch_size: 4, precision: fp32, threads: 1}}
log: {{every: 1, tensorboard: false, report: false}}
checkpoint: {{every: 100}}
eval: {{every: 0, batch_size: 4}}
"""


def write_cifar10(root: Path, *, per_batch: int = 20) -> Path:
    """CIFAR-10's layout with images whose class is their colour and brightness, and noise."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    levels = rng.integers(40, 216, (10, 3))
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = rng.integers(0, 10, per_batch)
        noise = rng.normal(0, 20, (per_batch, 3, 32, 32))
        pixels = np.clip(levels[labels][:, :, None, None] + noise, 0, 255).astype(np.uint8)
        batch = {b"data": pixels.reshape(per_batch, 3072), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    names = [f"class{k}".encode() for k in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": names}, protocol=2))
    return root


def write_folders(root: Path, *, count: int = 6) -> Path:
    """Red, green and blue images of several sizes in train/ and val/."""
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for number, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                size = (int(rng.integers(40, 60)), int(rng.integers(40, 60)), 3)
                pixels = rng.integers(0, 80, size, dtype=np.uint8)
                pixels[..., 2 - number] += 150
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root
