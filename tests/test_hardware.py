import os
import random
import subprocess
import sys

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


def test_compile_is_off_where_it_is_not_wanted():
    assert hardware.choose_compile(False, CPU) == (False, "off, as configured")
    assert hardware.choose_compile("auto", CPU)[0] is False


NO_HEADER = """C++ compile error

Command:
g++ x.cpp

Output:
x.cpp:3:10: fatal error: Python.h: No such file or directory
compilation terminated.
"""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError(NO_HEADER), "RuntimeError: x.cpp:3:10: fatal error: Python.h: No such"),
        (ModuleNotFoundError("No module named 'triton'"), "No module named 'triton'"),
        (RuntimeError("Found Tesla P100 which is too old\n\nSet TORCHDYNAMO_VERBOSE"), "P100"),
        (AssertionError(), "AssertionError: AssertionError()"),
    ],
)
def test_what_cannot_be_compiled_runs_eagerly_or_is_an_error(monkeypatch, error, words):
    """On a GPU `auto` falls back; `true` says why it does not work."""

    def fail(*args):
        raise error

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(torch, "linspace", lambda *args, **kwargs: torch.zeros(2))
    hardware.compile_fault.cache_clear()
    used, why = hardware.choose_compile("auto", torch.device("cuda"))
    assert not used
    assert why.startswith("off: torch.compile does not work here: ") and words in why
    assert "\n" not in why
    with pytest.raises(UserError, match=r"train.compile: true, but .*; install what is missing"):
        hardware.choose_compile(True, torch.device("cuda"))
    hardware.compile_fault.cache_clear()


def test_compile_is_on_where_a_trial_works(monkeypatch):
    """Forward and backward, once for all runs of a program."""
    tried = []
    monkeypatch.setattr(torch, "compile", lambda f: tried.append(f) or f)
    hardware.compile_fault.cache_clear()
    assert [hardware.choose_compile(True, CPU) for _ in range(2)] == [(True, "on")] * 2
    assert len(tried) == 1
    hardware.compile_fault.cache_clear()


@pytest.mark.slow
def test_a_compiler_that_fails_is_met_before_training(monkeypatch, tmp_path):
    """A g++ without Python's headers, as torch meets it; and one that works."""
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    text = "x.cpp:3:10: fatal error: Python.h: No such file or directory"
    broken.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit 1\n")
    broken.chmod(0o755)
    code = "import torch, resdet.hardware as h; print(h.compile_fault(torch.device('cpu')))"
    for path, cache, works in ((f"{broken.parent}:", "a", False), ("", "b", True)):
        env = os.environ | {"PATH": path + os.environ["PATH"]}
        env |= {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / cache)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said = done.stdout.splitlines()[-1]
        assert (said == "None") is works, said


def test_devices_are_checked():
    assert hardware.choose_device("cpu", 0) == CPU
    with pytest.raises(UserError, match="not a device"):
        hardware.choose_device("gpu", 0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            hardware.choose_device("cuda", 0)


def test_a_resumed_run_keeps_its_threads():
    with hardware.settings_restored():
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
    hardware.seed_all(1)
    expected = draws()
    hardware.seed_all(1)
    with pytest.raises(KeyError), hardware.settings_restored():
        hardware.set_threads(threads + 1, None)
        hardware.set_determinism(not was, torch.device("cpu"))
        hardware.seed_all(0)
        raise KeyError
    assert draws() == expected
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == was


def test_recomputed_activations_are_not_compiled():
    assert hardware.choose_compile("auto", torch.device("cuda"), recomputes=True)[0] is False
    with pytest.raises(UserError, match=r"train.compile: true cannot be combined"):
        hardware.choose_compile(True, CPU, recomputes=True)


@pytest.mark.parametrize("name", ["mps", "meta", "xpu:1"])
def test_devices_that_are_not_supported(name):
    with pytest.raises(UserError, match=f"--device {name}: is not supported; .*cpu and cuda"):
        hardware.choose_device(name, 0)
