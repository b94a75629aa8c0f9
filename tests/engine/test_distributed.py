"""Two gloo processes do what one does with the same global batch."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import resdet
from resdet.files import checkpoint
from tests.engine.cls_data import FOLDER_YAML, write_folders
from tests.engine.conftest import assert_same_end, log_of, losses_of
from tests.engine.kill_server import KillServer


def torchrun_command(
    config: Path | None, run: Path, overrides: list[str], tool: str = "train_det"
) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [f"tools/{tool}.py", *([str(config)] if config else []), *overrides]
    return [*command, "--run-dir", str(run), "--device", "cpu"]


def torchrun(
    repo: Path, config: Path | None, run: Path, overrides: list[str], tool: str = "train_det"
) -> subprocess.CompletedProcess:
    command = torchrun_command(config, run, overrides, tool)
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=600)


def two_processes(server: KillServer, config: Path, run: Path, overrides: list[str]) -> None:
    """What torchrun does with a command, without the imports of three processes."""
    argv = ["train-det", str(config), *overrides, "--run-dir", str(run), "--device", "cpu"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    env["MASTER_PORT"] = str(port)
    outputs = [run.with_suffix(f".{rank}.txt") for rank in (0, 1)]
    numbers = [
        server.start(argv, output, {**env, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, output in enumerate(outputs)
    ]
    codes = [server.wait(number) for number in numbers]
    assert codes == [0, 0], "".join(output.read_text() for output in outputs)


def same_size(backbone: Path) -> list[str]:
    """Frozen batch norm and images of one size, so that a batch is nothing but its images."""
    return [
        "train.batch_size=4",
        "model.backbone.norm=frozen_bn",
        f"model.backbone.weights={backbone}",
        # the first momentum buffers are then the gradients
        "optim.weight_decay=0",
    ]


def gradients(run: Path) -> list[torch.Tensor]:
    state = checkpoint.load(run / "last.pt")["optimizer"]["state"]
    return [state[number]["momentum_buffer"] for number in sorted(state)]


MIXED = [
    *("data.augment.copy_paste={}", "data.augment.mosaic.off_epochs=0", "data.repeat_threshold=1"),
    *("model.roi.box_head.focal_gamma=2", "model.roi.box_head.class_weights.nucleus=3"),
]


@pytest.mark.parametrize(
    ("precision", "options"),
    [("fp32", []), *(pytest.param("fp64", x, marks=pytest.mark.slow) for x in ([], MIXED))],
)
def test_first_step_and_validation_of_two_processes(server, tiny, tmp_path, precision, options):
    overrides = [*same_size(tiny.backbone), "train.max_steps=1", f"train.precision={precision}"]
    overrides += options
    two_processes(server, tiny.config, tmp_path / "two", overrides)
    one = resdet.train(tiny.config, overrides, run_dir=tmp_path / "one", device="cpu")
    first, second = losses_of(one)[1], losses_of(tmp_path / "two")[1]
    assert second == pytest.approx(first, rel=1e-6, abs=1e-7)
    for a, b in zip(gradients(one), gradients(tmp_path / "two"), strict=True):
        # The mask predictor's one bias sums thousands of terms that cancel out.
        limit = 1e-4 if a.numel() == 1 and precision == "fp32" else 1e-6
        assert (a - b).norm() <= limit * a.norm()
    evals = [log_of(run)[-1] for run in (one, tmp_path / "two")]
    for kind, numbers in evals[0]["eval"].items():
        assert evals[1]["eval"][kind] == pytest.approx(numbers, abs=1e-6)
    assert evals[1]["val_loss"] == pytest.approx(evals[0]["val_loss"], rel=1e-5)
    assert len(losses_of(tmp_path / "two")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_twenty_steps_in_float64(repo, tiny, tmp_path, accumulate):
    overrides = [
        *same_size(tiny.backbone),
        "train.max_steps=20",
        "train.precision=fp64",
        "data.val=null",
    ]
    if accumulate == 2:
        # A mask loss is a mean over the positives of its part.
        overrides += ["train.accumulate=2", "model.roi.mask_head=null"]
    done = torchrun(repo, tiny.config, tmp_path / "two", overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    one = resdet.train(tiny.config, overrides, run_dir=tmp_path / "one", device="cpu")
    first, second = losses_of(one), losses_of(tmp_path / "two")
    assert sorted(first) == list(range(1, 21))
    for step, losses in first.items():
        assert second[step] == pytest.approx(losses, rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_two_processes_of_a_classifier(repo, tmp_path):
    """Group norm, so that a batch is nothing but its images; one of them is broken."""
    data = write_folders(tmp_path / "data")
    broken = data / "train/red/0.png"
    broken.write_bytes(broken.read_bytes()[:2000])
    config = tmp_path / "tiny.yaml"
    config.write_text(FOLDER_YAML.format(root=data))
    overrides = ["model.backbone.norm=gn", "train.max_steps=5", "data.augment.pca_std=0.1"]
    overrides += ["data.repeated_augmentation=2", "data.augment.erase_prob=0.5"]
    done = torchrun(repo, config, tmp_path / "two", overrides, "train_cls")
    assert done.returncode == 0, done.stdout + done.stderr
    one = resdet.train(config, overrides, run_dir=tmp_path / "one", device="cpu")
    first, second = losses_of(one), losses_of(tmp_path / "two")
    for step, losses in first.items():
        assert second[step] == pytest.approx(losses, rel=1e-4)
    counts = [[line.get("num_broken") for line in log_of(run)] for run in (one, tmp_path / "two")]
    assert counts[0] == counts[1] and 1 in counts[0]
    assert "red/0.png" in done.stdout
    evals = [log_of(run)[-1]["eval"] for run in (one, tmp_path / "two")]
    assert evals[0] == evals[1]


@pytest.mark.slow
def test_nan_names_the_processes(repo, tiny, tmp_path):
    overrides = ["optim.lr=1e9", "optim.warmup_steps=0", "log.every=50"]
    done = torchrun(repo, tiny.config, tmp_path / "run", overrides)
    assert done.returncode != 0
    assert "the loss is not finite; process 0: loss " in done.stderr
    assert "process 1: loss " in done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_with_one_line(repo, tiny, tmp_path, killed):
    """Beside torchrun's own report, which it prints whenever a process fails."""
    command = torchrun_command(tiny.config, tmp_path / "run", ["train.max_steps=5000"])
    with subprocess.Popen(
        command, cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_step_2(process, tmp_path / "run" / "log.jsonl")
        os.kill(child_of_rank(process.pid, killed), signal.SIGKILL)
        errors = process.communicate(timeout=60)[1]
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: process {killed} ended without a message")
    assert "resdet/engine" not in errors


def wait_for_step_2(process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while not (log.is_file() and '"step": 2,' in log.read_text()):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)


def child_of_rank(parent: int, rank: int) -> int:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (found,) = (
        child
        for child in children
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0")
    )
    return int(found)


@pytest.mark.slow
def test_a_stopped_torchrun_goes_on_exactly(repo, tiny, tmp_path):
    """With batch norm, whose statistics differ between the processes, and averaged weights."""
    overrides = [
        "model.backbone.norm=bn",
        "train.ema_decay=0.9",
        "train.max_steps=8",
        "data.workers=1",
        "eval.every=3",
    ]
    assert torchrun(repo, tiny.config, tmp_path / "whole", overrides).returncode == 0
    command = torchrun_command(tiny.config, tmp_path / "run", overrides)
    with subprocess.Popen(
        command, cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        wait_for_step_2(process, tmp_path / "run" / "log.jsonl")
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=120)[0]
    assert "--resume --run-dir" in output
    assert 2 <= checkpoint.load(tmp_path / "run" / "last.pt")["step"] < 8
    done = torchrun(repo, None, tmp_path / "run", ["--resume"])
    assert done.returncode == 0, done.stderr
    assert_same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_sync_bn_and_uneven_batches_are_refused_by_all(repo, tiny, tmp_path):
    for override, words in (
        ("model.backbone.norm=sync_bn", "sync_bn"),
        ("train.batch_size=3", "use a multiple of 2"),
    ):
        done = torchrun(repo, tiny.config, tmp_path / "run", [override])
        assert done.returncode != 0
        assert words in done.stderr
        assert not (tmp_path / "run").exists()
