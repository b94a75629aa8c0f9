"""Jobs of several clients in one batch, dropped ones, failing ones."""

import threading
from collections.abc import Iterator

import pytest
import torch

from resdet.serving.batching import Batcher, Job
from tests.serving.slow_model import SlowModel


@pytest.fixture
def model() -> Iterator[SlowModel]:
    made = SlowModel()
    yield made
    made.go.set()


def job(
    red: int, size: tuple[int, int] = (4, 9), thresh: float | None = None, green: int = 0
) -> Job:
    return Job(torch.tensor([red, green, 0]), size, thresh)


def busy(model: SlowModel, batcher: Batcher) -> Job:
    """A job that the network is held up with, so that others queue behind it."""
    model.go.clear()
    model.started.clear()
    first = job(99)
    batcher.submit(first)
    assert model.started.wait(10)
    return first


def submit(batcher: Batcher, jobs: list[Job]) -> None:
    for each in jobs:
        batcher.submit(each)


def test_what_fits_together_shares_a_batch(model: SlowModel) -> None:
    batcher = Batcher(model, max_batch=3, max_wait_s=0.0)
    busy(model, batcher)
    lying = [job(red) for red in (1, 2, 3, 4)]
    others = [job(5, thresh=0.5), job(6, size=(9, 4)), job(7, thresh=0.5)]
    submit(batcher, [lying[0], *others, *lying[1:]])
    model.go.set()
    batcher.close()
    assert model.batches == [[99], [1, 2, 3], [5, 7], [6], [4]]
    assert [int(each.future.result().boxes[0, 0]) for each in lying] == [1, 2, 3, 4]
    assert not model.training or all(not module.training for module in model.children())


def test_an_image_waits_for_others_for_a_moment(model: SlowModel) -> None:
    batcher = Batcher(model, max_batch=2, max_wait_s=20.0)
    first, second = job(1), job(2)
    batcher.submit(first)
    batcher.submit(second)  # the batch is full: the 20 s are not over
    assert int(second.future.result(10).boxes[0, 0]) == 2
    batcher.submit(job(3))
    batcher.close()  # nor here
    assert model.batches == [[1, 2], [3]]


def test_a_cancelled_job_is_never_computed(model: SlowModel) -> None:
    batcher = Batcher(model, max_batch=4, max_wait_s=0.0)
    first = busy(model, batcher)
    gone, kept = job(1), job(2)
    submit(batcher, [gone, kept])
    assert gone.future.cancel() and not first.future.cancel()
    model.go.set()
    batcher.close()
    assert model.batches == [[99], [2]]
    assert first.future.result() and kept.future.result()


def test_an_image_that_fails_does_not_take_others_with_it(model: SlowModel) -> None:
    batcher = Batcher(model, max_batch=4, max_wait_s=0.0)
    busy(model, batcher)
    good, bad, last = job(1), job(2, green=255), job(3)
    submit(batcher, [good, bad, last])
    model.go.set()
    batcher.close()
    assert int(good.future.result().boxes[0, 0]) == 1 and int(last.future.result().boxes[0, 0]) == 3
    with pytest.raises(RuntimeError, match="a bug of the network"):
        bad.future.result()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(job(4))


def test_what_is_queued_can_be_dropped_at_the_end(model: SlowModel) -> None:
    batcher = Batcher(model, max_batch=1, max_wait_s=0.0)
    first = busy(model, batcher)
    queued = job(1)
    batcher.submit(queued)
    threading.Timer(0.1, model.go.set).start()
    batcher.close(drop=True)
    assert first.future.result() and queued.future.cancelled()
    assert model.batches == [[99]]
