import pytest
import torch
from torch import nn

from resdet.engine.distributed import Processes
from resdet.engine.watch import LossWatch, NonFiniteError, check_weights

ALONE = Processes(0, 1, 1, torch.device("cpu"))


def values(cls: float, box: float, **more: float) -> dict:
    named = {"loss": cls + box, "loss_cls": cls, "loss_box": box, **more}
    return {name: torch.tensor(value) for name, value in named.items()}


def test_the_newest_numbers_are_read():
    watch = LossWatch(ALONE)
    watch.add(1, values(1.0, 2.0), ["a.jpg (id 1)"], 1)
    watch.add(2, values(0.5, 0.25), ["b.jpg (id 2)"], 1)
    assert watch.read() == {"loss": 0.75, "loss_cls": 0.5, "loss_box": 0.25}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_step_is_named_with_losses_and_images(bad):
    watch = LossWatch(ALONE)
    watch.add(7, values(1.0, 2.0), ["a.jpg (id 1)"], 1)
    watch.add(8, values(1.0, bad), ["b.jpg (id 2)", "c.jpg (id 3)"], 2)
    watch.add(9, values(float("nan"), float("nan")), ["d.jpg (id 4)"], 1)
    with pytest.raises(NonFiniteError) as caught:
        watch.read()
    text = str(caught.value)
    assert text.startswith("step 8: ")
    assert f"loss_box {bad:g}" in text
    assert "b.jpg (id 2), c.jpg (id 3)" in text
    assert "d.jpg" not in text


def test_an_overflowing_gradient_norm_alone_does_not_stop():
    watch = LossWatch(ALONE)
    watch.add(1, values(1.0, 2.0, grad_norm=float("inf")), ["a.jpg (id 1)"], 1)
    assert watch.read()["loss"] == 3


def test_it_asks_to_be_read_before_it_grows():
    watch = LossWatch(ALONE, capacity=2)
    watch.add(1, values(1.0, 2.0), ["a"], 1)
    assert not watch.full
    watch.add(2, values(1.0, 2.0), ["a"], 1)
    assert watch.full
    watch.read()
    assert not watch.full


def test_weights_and_buffers_are_looked_at():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_weights(model, 4)
    model[1].running_var[0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"step 4: .*1\.running_var"):
        check_weights(model, 4)
