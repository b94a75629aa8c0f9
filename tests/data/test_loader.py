"""Batches: padding, the plan, and the same tensors whatever the workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdet.data.detection import checks
from resdet.data.detection.batches import Batch, collate
from resdet.data.detection.dataset import DetectionDataset, read_dataset
from resdet.data.loader import TrainPlan, eval_loader, train_loader
from resdet.files.findings import DataError
from resdet.structures import collate_images
from tests.data.make import annotation, dataset, train_transform, write_coco


@pytest.fixture(scope="module")
def nuclei_data(nuclei: Path) -> DetectionDataset:
    entries = [{"name": "RandomBrightnessContrast", "p": 0.5}]
    return read_dataset(
        str(nuclei / "images"),
        str(nuclei / "annotations" / "val.json"),
        transform=train_transform(albumentations=entries),
        seed=1,
    )


def same(first: Batch, second: Batch) -> bool:
    a, b = first.targets, second.targets
    assert a.masks is not None and b.masks is not None
    pairs = [
        (first.images.images, second.images.images),
        (first.images.sizes, second.images.sizes),
        (a.boxes, b.boxes),
        (a.labels, b.labels),
        (a.valid, b.valid),
        (a.masks, b.masks),
        (a.mask_rows, b.mask_rows),
        (a.image_keys, b.image_keys),
    ]
    return first.paths == second.paths and all(torch.equal(x, y) for x, y in pairs)


def test_images_are_padded_right_and_bottom() -> None:
    images = [torch.full((3, 40, 33), 7, dtype=torch.uint8), torch.ones(3, 64, 20).byte()]
    batch = collate_images(images)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes.tolist() == [[40, 33], [64, 20]]
    assert (batch.images[0, :, :40, :33] == 7).all()
    assert batch.images[0, :, 40:].sum() == batch.images[0, :, :, 33:].sum() == 0


def test_targets_are_padded(nuclei_data: DetectionDataset) -> None:
    samples = [nuclei_data[(0, index)] for index in (0, 4, 9)]
    batch = collate(samples)
    targets = batch.targets
    counts = [len(sample.target.labels) for sample in samples]
    assert targets.boxes.shape == (3, max(counts), 4)
    assert targets.valid.sum(dim=1).tolist() == counts
    assert targets.masks is not None
    assert len(targets.masks) == sum(counts)
    for row, sample in enumerate(samples):
        kept = targets.valid[row]
        assert torch.equal(targets.boxes[row, kept], sample.target.boxes)
        assert sample.target.masks is not None
        assert torch.equal(targets.masks[targets.mask_rows[row, kept]], sample.target.masks)
        assert targets.boxes[row, ~kept].sum() == 0
    assert batch.indices == targets.image_keys.tolist() == [0, 4, 9]


def test_a_batch_without_objects_has_one_empty_slot(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    data = dataset(*write_coco(tmp_path, [annotation()], images=images))
    batch = collate([data[(0, 1)], data[(0, 1)]])
    assert batch.targets.boxes.shape == (2, 1, 4)
    assert not batch.targets.valid.any()
    assert batch.targets.masks is not None
    assert batch.targets.masks.shape == (1, 112, 112)
    moved = batch.to(torch.device("cpu"))
    assert same(moved, batch)


def test_every_number_of_workers_and_every_start_gives_the_same(
    nuclei_data: DetectionDataset,
) -> None:
    plan = TrainPlan(len(nuclei_data), 6, seed=2)
    span = {"start_step": 9, "end_step": 14, "accumulate": 3}  # across the end of an epoch
    state = torch.get_rng_state()
    reference = list(train_loader(nuclei_data, plan, workers=0, **span))
    assert [len(parts) for parts in reference] == [3] * 5
    for workers in (1, 3):
        steps = list(train_loader(nuclei_data, plan, workers=workers, **span))
        for parts, expected in zip(steps, reference, strict=True):
            assert all(same(a, b) for a, b in zip(parts, expected, strict=True))
    resumed = list(train_loader(nuclei_data, plan, workers=1, **{**span, "start_step": 12}))
    for parts, expected in zip(resumed, reference[3:], strict=True):
        assert all(same(a, b) for a, b in zip(parts, expected, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_a_step(nuclei_data: DetectionDataset) -> None:
    plan = TrainPlan(len(nuclei_data), 4, seed=0)
    seen = []
    for rank in (0, 1):
        [parts] = train_loader(
            nuclei_data, plan, start_step=3, end_step=4, rank=rank, world_size=2, accumulate=2
        )
        seen += [index for batch in parts for index in batch.indices]
    assert seen == [index for _, index in plan.batch(3)]
    with pytest.raises(DataError, match=r"batch_size 4 can't be split over 3 process"):
        train_loader(nuclei_data, plan, start_step=0, end_step=1, world_size=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once(nuclei_data: DetectionDataset, workers: int) -> None:
    seen: list[int] = []
    for rank in range(3):
        for batch in eval_loader(
            nuclei_data, batch_size=4, rank=rank, world_size=3, workers=workers, broken={}
        ):
            seen += batch.indices
    assert sorted(seen) == list(range(len(nuclei_data)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_is_left_out_with_a_clear_reason(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "HEADERS_AT_START", 0)
    source = write_coco(tmp_path, [annotation()])
    (Path(source[0]) / "1.png").write_bytes(b"broken")
    data = dataset(*source)
    broken: dict[int, str] = {}
    assert list(eval_loader(data, workers=workers, broken=broken)) == []
    assert list(broken) == [0]
    plan = TrainPlan(1, 1, seed=0)
    [[batch]] = train_loader(data, plan, start_step=0, end_step=1, workers=workers)
    assert batch.problems == [(0, broken[0])]
    assert "1.png: not an image" in broken[0]
    assert "Traceback" not in broken[0] and "worker" not in broken[0]


@pytest.mark.parametrize(("count", "size"), [(10, 4), (8, 4), (3, 8), (1, 1), (103, 16)])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_plan_sees_every_image(count: int, size: int, grouped: bool) -> None:
    ratios = np.where(np.arange(count) % 3 == 0, 0.7, 1.4) if grouped else None
    plan = TrainPlan(count, size, seed=3, aspect_ratios=ratios)
    assert plan.steps_per_epoch == -(-count // size)
    orders = []
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        keys = [key for step in steps for key in plan.batch(step)]
        assert {key[0] for key in keys} == {epoch}
        assert {key[1] for key in keys} == set(range(count))
        assert len(keys) == plan.steps_per_epoch * size
        orders.append([key[1] for key in keys])
    assert count < 4 or orders[0] != orders[1]


def test_a_plan_is_a_pure_function() -> None:
    first, second = TrainPlan(50, 8, seed=1), TrainPlan(50, 8, seed=1)
    steps = [40, 3, 17, 3, 0, 25]
    expected = {step: first.batch(step) for step in range(41)}
    assert all(second.batch(step) == expected[step] for step in steps)
    assert TrainPlan(50, 8, seed=2).batch(0) != expected[0]


def test_the_last_batch_takes_the_epochs_first_images() -> None:
    plan = TrainPlan(10, 4, seed=0)
    keys = [key for step in range(3) for key in plan.batch(step)]
    assert keys[10:] == keys[:2]
    assert len(set(keys)) == 10


def test_groups_do_not_mix_but_for_one_batch() -> None:
    ratios = np.r_[np.full(37, 0.6), np.full(60, 1.5)]
    plan = TrainPlan(97, 8, seed=0, aspect_ratios=ratios)
    for epoch in range(4):
        kinds = []
        for step in range(plan.steps_per_epoch):
            batch = plan.batch(epoch * plan.steps_per_epoch + step)
            kinds.append({bool(ratios[index] < 1) for _, index in batch})
        assert sum(len(kind) == 2 for kind in kinds) <= 1
        assert {frozenset(kind) for kind in kinds} >= {frozenset({True}), frozenset({False})}
        flat = [next(iter(kind)) for kind in kinds if len(kind) == 1]
        assert flat != sorted(flat) or epoch  # landscape and portrait come in random order


def test_a_tall_image_keeps_its_size_in_the_batch(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "1.png", "height": 90, "width": 30}]
    source = write_coco(tmp_path, [], images=[])
    Image.fromarray(np.zeros((90, 30), np.uint8)).save(Path(source[0]) / "1.png")
    source = write_coco(tmp_path, [annotation()], images=images)
    [batch] = eval_loader(dataset(*source), broken={})
    assert batch.images.sizes.tolist() == [[120, 40]]
    assert batch.images.images.shape == (1, 3, 128, 64)
    assert batch.original_sizes == [(90, 30)]


@pytest.mark.parametrize(("count", "size", "repeats"), [(20, 8, 4), (103, 12, 3), (3, 8, 2)])
def test_repeats_come_within_a_step_with_keys_of_their_own(
    count: int, size: int, repeats: int
) -> None:
    plan = TrainPlan(count, size, seed=3, repeats=repeats)
    assert plan.steps_per_epoch == TrainPlan(count, size, seed=3).steps_per_epoch
    for epoch in range(3):
        indices: list[int] = []
        for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
            keys = plan.batch(step)
            assert keys == TrainPlan(count, size, seed=3, repeats=repeats).batch(step)
            parts = np.array(keys).reshape(repeats, size // repeats, 2)
            # each image once in every part of the batch, so that it meets several processes
            assert (parts[:, :, 1] == parts[0, :, 1]).all()
            assert (parts[:, :, 0] == (epoch * repeats + np.arange(repeats))[:, None]).all()
            indices += parts[0, :, 1].tolist()
        # as many steps as without, so a part of the images, each of them once
        assert len(set(indices)) == min(count, len(indices))


def test_no_repeats_is_the_plain_plan() -> None:
    plain, once = TrainPlan(50, 8, seed=1), TrainPlan(50, 8, seed=1, repeats=1)
    assert all(plain.batch(step) == once.batch(step) for step in range(20))


def test_a_batch_that_repeats_do_not_divide_is_full_all_the_same() -> None:
    keys = TrainPlan(2000, 2048, seed=1, repeats=3).batch(5)
    assert len(keys) == len(set(keys)) == 2048
    assert {epoch for epoch, _ in keys} == {15, 16, 17}


def test_any_data_set_can_be_loaded(nuclei_data: DetectionDataset) -> None:
    class Squares:
        def __len__(self) -> int:
            return 5

        def __getitem__(self, key: tuple[int, int]) -> int:
            return key[1] ** 2

        def unreadable(self, key: tuple[int, int], problem: str) -> int:
            raise AssertionError("every square can be read")

    assert list(eval_loader(Squares(), batch_size=2, collate=sum, broken={})) == [1, 13, 16]
    steps = train_loader(
        Squares(), TrainPlan(5, 5, seed=0), start_step=0, end_step=1, workers=1, collate=sorted
    )
    assert list(steps) == [[[0, 1, 4, 9, 16]]]


def test_padding_to_another_multiple() -> None:
    images = [torch.ones((3, 40, 33)), torch.ones(3, 41, 20)]
    batch = collate_images(images, 1)
    assert batch.images.shape == (2, 3, 41, 33) and batch.images.dtype == torch.float32
    assert batch.images.sum() == 3 * (40 * 33 + 41 * 20)
    assert collate_images(images, 16).images.shape == (2, 3, 48, 48)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("grouped", [False, True])
def test_factors_hold_on_average_and_keep_the_length_of_epochs(size: int, grouped: bool) -> None:
    rng = np.random.default_rng(3)
    factors = np.concatenate([np.ones(30), rng.uniform(1, 4, 21)])
    ratios = rng.uniform(0.5, 2, 51) if grouped else None
    plan = TrainPlan(51, size, seed=5, aspect_ratios=ratios, factors=factors)
    total = int(np.ceil(factors.sum()))
    assert plan.num_samples == total and plan.steps_per_epoch == -(-total // size)
    counts, epochs = np.zeros(51), 200
    for epoch in range(epochs):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        keys = [key for step in steps for key in plan.batch(step)]
        assert len(keys) == size * plan.steps_per_epoch
        # repeats of an image are augmented differently; those that fill the last batches are not
        own = np.bincount([index for _, index in set(keys)], minlength=51)
        assert (own >= np.floor(factors)).all()
        assert len(set(keys)) >= total - 1
        assert all(epoch == number // plan.turns for number, _ in keys)
        counts += own
    assert (np.abs(counts / epochs - factors) < 0.15).all()
    again = TrainPlan(51, size, seed=5, aspect_ratios=ratios, factors=factors)
    assert again.batch(77) == plan.batch(77)


def test_factors_of_one_change_nothing() -> None:
    plain, factors = TrainPlan(50, 8, seed=1), TrainPlan(50, 8, seed=1, factors=np.ones(50))
    assert plain.steps_per_epoch == factors.steps_per_epoch
    assert {key for step in range(7) for key in factors.batch(step)} == {
        (0, index) for index in range(50)
    }
    assert factors.turns == plain.turns == 1


def test_total_steps() -> None:
    plan = TrainPlan(50, 8, seed=1)
    assert plan.total_steps(2, None) == 14
    assert plan.total_steps(0.01, None) == 1
    assert plan.total_steps(None, 33) == 33
