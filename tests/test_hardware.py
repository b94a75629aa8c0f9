import random

import numpy as np
import pytest
import torch

from resdet import hardware
from resdet.engine.distributed import Processes, check_norms, images_per_part
from resdet.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_precision_follows_the_processor(monkeypatch, capabilities, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert hardware.choose_precision("auto", CPU).name == name


def test_fp16_needs_a_gpu():
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        hardware.choose_precision("fp16", CPU)


def test_precision_sets_types():
    assert hardware.choose_precision("fp64", CPU).parameters == torch.float64
    half = hardware.choose_precision("bf16", CPU)
    assert half.parameters == torch.float32
    with half.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_compile_is_said_where_it_is_off(monkeypatch):
    assert hardware.choose_compile(False, CPU) == (False, "off, as configured")
    assert hardware.choose_compile("auto", CPU)[0] is False
    monkeypatch.setattr(hardware.shutil, "which", lambda name: None)
    used, why = hardware.choose_compile(True, CPU)
    assert not used
    assert "no C++ compiler" in why
    monkeypatch.setattr(hardware.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert hardware.choose_compile(True, CPU)[0] is True


def test_devices_are_checked():
    assert hardware.choose_device("cpu", 0) == CPU
    with pytest.raises(UserError, match="not a device"):
        hardware.choose_device("gpu", 0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            hardware.choose_device("cuda", 0)


def test_a_resumed_run_keeps_its_threads():
    """The restoring fixture of this folder puts the number back."""
    assert hardware.set_threads(2, None) == 2
    assert hardware.set_threads(None, 1) == 1
    assert hardware.set_threads(None, None) == 1
    assert hardware.set_threads(2, 1) == 2


def draws() -> tuple:
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_seeds_depend_on_seed_step_and_rank_alone():
    hardware.seed_all(3, 17, 1)
    first = draws()
    draws()
    hardware.seed_all(3, 17, 1)
    assert draws() == first
    for other in ((4, 17, 1), (3, 18, 1), (3, 17, 0)):
        hardware.seed_all(*other)
        assert draws() != first


def test_batches_split_evenly_or_not_at_all():
    assert images_per_part(16, 4, 2) == 2
    with pytest.raises(UserError, match="multiple of 6"):
        images_per_part(16, 3, 2)


def test_sync_bn_is_refused_where_it_cannot_work():
    model = torch.nn.Sequential(torch.nn.SyncBatchNorm(4))
    check_norms(model, Processes(0, 1, 1, CPU))
    with pytest.raises(UserError, match="sync_bn"):
        check_norms(model, Processes(0, 2, 2, CPU))


def test_a_run_leaves_the_program_as_it_was():
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), hardware.settings_restored():
        hardware.set_threads(threads + 1, None)
        hardware.set_determinism(not was, torch.device("cpu"))
        raise KeyError
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == was


def test_recomputed_activations_are_not_compiled():
    assert hardware.choose_compile("auto", torch.device("cuda"), recomputes=True)[0] is False
    with pytest.raises(UserError, match=r"train.compile: true cannot be combined"):
        hardware.choose_compile(True, CPU, recomputes=True)
