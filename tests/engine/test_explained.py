"""Which errors of torch become messages, and which keep their traceback."""

from __future__ import annotations

import pytest
import torch

from resdet.engine.explained import explained
from resdet.engine.precise_bn import ONE_VALUE
from resdet.errors import UserError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "step 3: the memory of cpu is full"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "lower train.batch_size"),
        (MemoryError(), "--check estimates the need"),
        (ValueError(f"{ONE_VALUE} when training, got"), "step 3: train.batch_size: the batch"),
    ],
)
def test_what_a_user_can_change_is_explained(error, words):
    with pytest.raises(UserError, match=words), explained("step 3", torch.device("cpu")):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("invalid literal")])
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as caught, explained("step 3", torch.device("cpu")):
        raise error
    assert caught.value is error
