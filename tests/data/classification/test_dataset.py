"""The data set: the same sample wherever it is made, and broken images that are named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.data.classification import dataset as module
from resdet.data.classification.dataset import ClassificationDataset, open_images
from resdet.data.classification.policies import TrivialAugment
from resdet.data.classification.samples import ClassificationBatch, collate_classification
from resdet.data.classification.transforms import (
    ClassificationTestTransform,
    ClassificationTrainTransform,
    RandomResizedCrop,
)
from resdet.data.loader import TrainPlan, eval_loader, train_loader
from resdet.files.findings import DataError
from resdet.files.images import read_image
from tests.data.classification.test_imagenet import write_flat, write_kit
from tests.data.classification.test_shards import jpeg, write_tar
from tests.data.make_cls import picture, write_classes

TEST = ClassificationTestTransform(36, 32)


@pytest.fixture(scope="module")
def bees(shared_data: Path) -> ClassificationDataset:
    transform = ClassificationTrainTransform(
        48,
        crop=RandomResizedCrop(),
        policy=TrivialAugment(),
        color_jitter=0.1,
        progressive=[(0, 32), (2, 64)],
        repeats=2,
    )
    return open_images(shared_data / "hymenoptera_256" / "val", transform=transform, seed=3)


def same(first: ClassificationBatch, second: ClassificationBatch) -> bool:
    tensors = torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    return tensors and (first.keys, first.paths) == (second.keys, second.paths)


def test_every_number_of_workers_and_every_start_gives_the_same(
    bees: ClassificationDataset,
) -> None:
    plan = TrainPlan(len(bees), 16, seed=1, repeats=2)
    # across the end of an epoch, where the side changes
    first = plan.steps_per_epoch - 2
    span = {
        "start_step": first,
        "end_step": first + 4,
        "accumulate": 2,
        "collate": collate_classification,
    }
    np.random.seed(1)
    reference = list(train_loader(bees, plan, workers=0, **span))
    sides = [[part.images.shape[-1] for part in parts] for parts in reference]
    assert sides == [[32, 32], [32, 32], [64, 64], [64, 64]] or sides[2:] == [[64, 64], [64, 64]]
    for workers in (1, 3):
        steps = list(train_loader(bees, plan, workers=workers, **span))
        for parts, expected in zip(steps, reference, strict=True):
            assert all(same(a, b) for a, b in zip(parts, expected, strict=True))
    resumed = list(train_loader(bees, plan, workers=1, **{**span, "start_step": first + 3}))
    assert all(same(a, b) for a, b in zip(resumed[0], reference[3], strict=True))


def test_repeats_are_augmented_anew(bees: ClassificationDataset) -> None:
    [(first, second)] = train_loader(
        bees,
        TrainPlan(len(bees), 8, seed=1, repeats=2),
        start_step=0,
        end_step=1,
        accumulate=2,
        collate=collate_classification,
    )
    assert first.paths == second.paths and torch.equal(first.labels, second.labels)
    assert all((a != b).any() for a, b in zip(first.images, second.images, strict=True))


def test_a_sample_names_its_image_and_class(bees: ClassificationDataset) -> None:
    sample = bees[(5, 100)]
    assert sample.index == 100 and sample.epoch == 5 and sample.problem is None
    assert sample.path == bees.name(100)
    assert Path(sample.path).parent.name == bees.class_names[sample.label]
    assert sample.label == bees.labels[100]
    assert np.array_equal(bees.read(100), read_image(bees.name(100)))


def test_evaluation_sees_every_image_once(shared_data: Path) -> None:
    data = open_images(shared_data / "hymenoptera_256" / "val", transform=TEST)
    seen = []
    for rank in (0, 1):
        loader = eval_loader(
            data,
            batch_size=32,
            rank=rank,
            world_size=2,
            collate=collate_classification,
            broken={},
        )
        for batch in loader:
            assert batch.images.shape[1:] == (3, 32, 32)
            assert batch.labels.tolist() == data.labels[[i for _, i in batch.keys]].tolist()
            seen += [index for _, index in batch.keys]
    assert sorted(seen) == list(range(153))


def test_the_layout_is_recognised(tmp_path: Path) -> None:
    folder = write_classes(tmp_path / "folder", {"a": 2, "b": 1})
    assert len(open_images(folder, transform=TEST)) == 3
    flat = write_flat(tmp_path / "flat")
    write_kit(flat, [4, 1, 3, 1, 2])
    assert open_images(flat, transform=TEST).class_names[0] == "n01440764"
    shards = tmp_path / "shards"
    write_tar(shards / "a.tar", {"1.jpg": jpeg(1), "1.cls": b"x", "2.jpg": jpeg(2), "2.cls": b"y"})
    data = open_images(shards, transform=TEST)
    assert data.class_names == ["x", "y"]
    assert data[(0, 1)].problem is None and data[(0, 1)].label == 1
    with pytest.raises(DataError, match=r"no class folders"):
        open_images(shards, transform=TEST, format="folder")
    with pytest.raises(DataError, match=r"no \*\.tar in it"):
        open_images(folder, transform=TEST, format="shards")
    with pytest.raises(DataError, match=r"(?s)no such folder: .*data\.train\.root"):
        open_images(tmp_path / "none", transform=TEST)


def with_broken(root: Path) -> Path:
    write_classes(root, {"a": 3, "b": 2})
    (root / "a" / "1.jpg").write_bytes(b"<html>not found</html>")
    picture(0, 300, 400).save(root / "b" / "0.jpg")
    whole = (root / "b" / "0.jpg").read_bytes()
    (root / "b" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    return root


def test_bad_headers_are_found_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = open_images(with_broken(tmp_path), transform=TEST)
    assert len(data) == len(data.labels) == 4
    [finding] = data.findings
    assert f"{tmp_path / 'a'}: 1.jpg can't be read (not an image" in str(finding)
    assert "it is left out" in str(finding)
    assert "1×" in caplog.text
    everything = open_images(tmp_path, transform=TEST, decode_all=True)
    assert len(everything) == 3 and len(everything.findings) == 2
    with pytest.raises(DataError, match=r"1 finding\(s\) .* have to be fixed"):
        open_images(tmp_path, transform=TEST, strict=True)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_found_broken_later_is_named_and_does_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(module, "HEADERS_AT_START", 0)
    data = open_images(with_broken(tmp_path), transform=TEST)
    (tmp_path / "a" / "2.jpg").unlink()
    assert len(data) == 5 and data.findings == []
    broken: dict[int, str] = {}
    options: dict[str, Any] = {"workers": workers, "collate": collate_classification}
    [batch] = eval_loader(data, batch_size=5, broken=broken, **options)
    assert batch.labels.tolist() == [0, 1] and batch.problems == []
    assert list(broken) == [1, 2, 3]
    for name, problem in zip(("a/1.jpg", "a/2.jpg", "b/0.jpg"), broken.values(), strict=True):
        assert problem.startswith(f"{tmp_path / name}: ")
    assert "no such image file" in broken[2] and "damaged" in broken[3]

    plan = TrainPlan(5, 5, seed=0)
    [[batch]] = train_loader(data, plan, start_step=0, end_step=1, **options)
    order = [index for _, index in batch.keys]
    assert batch.labels.tolist() == [[0, -1, -1, -1, 1][index] for index in order]
    assert sorted(batch.problems) == list(broken.items())
    for index, image in zip(order, batch.images, strict=True):
        assert bool((image > 0).any()) == (index not in broken)
    with pytest.raises(DataError, match=r"a/1\.jpg"):
        data.read(1)


def test_a_set_without_a_sound_image_is_an_error(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 1, "b": 1})
    for name in ("a", "b"):
        (tmp_path / name / "0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"2 finding\(s\)"):
        open_images(tmp_path, transform=TEST)


def test_the_fingerprint_follows_names_and_labels(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "set", {"a": 2, "b": 1})
    first = open_images(root, transform=TEST).digest()
    assert first.startswith("3 images, ")
    moved = tmp_path / "moved"
    root.rename(moved)
    assert open_images(moved, transform=TEST).digest() == first
    assert open_images(moved, transform=TEST, classes=["b", "a"]).digest() != first
    (moved / "a" / "1.jpg").rename(moved / "a" / "2.jpg")
    assert open_images(moved, transform=TEST).digest() != first


def test_the_mean_of_each_pixel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_classes(tmp_path, {"a": 2, "b": 0})
    Image.new("RGB", (60, 40), (10, 20, 30)).save(root / "b" / "0.png")
    (root / "b" / "1.png").write_bytes(b"broken")
    data = open_images(root, transform=ClassificationTestTransform(40, 40))
    squares = [data[(0, index)].image.double() for index in range(3)]
    mean = data.pixel_mean()
    assert mean.shape == (3, 40, 40) and mean.dtype == torch.float32
    torch.testing.assert_close(mean, torch.stack(squares).mean(0).float())


def test_findings_reach_the_log_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_classes(tmp_path, {"a": 1, "b": 1, "none": 0})
    with caplog.at_level(logging.WARNING, "resdet"):
        open_images(tmp_path, transform=TEST)
    assert caplog.text.count("class folder 'none' holds no image") == 1
