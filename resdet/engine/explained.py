"""Errors of torch that a user can do something about, in words."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from resdet.engine.precise_bn import ONE_VALUE, one_value_per_channel
from resdet.errors import UserError


@contextmanager
def explained(what: str, device: torch.device) -> Iterator[None]:
    """Inside, memory that runs out and a batch norm without statistics are UserErrors; `what` is
    being done then, such as step 3."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not is_known and "DefaultCPUAllocator" not in str(error):
            raise
        raise UserError(
            f"{what}: the memory of {device} is full; lower train.batch_size (in validation "
            "eval.batch_size), raise train.accumulate, or make images smaller; --check estimates "
            "the need"
        ) from error
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise UserError(f"{what}: {one_value_per_channel('the batch')}") from error
