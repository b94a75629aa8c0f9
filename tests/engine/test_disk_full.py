"""A disk that refuses ends no run before its end, and leaves whole files: full, over quota,
read-only, a limit of the system, a removed folder, a small tmpfs where root may mount it."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import resdet
from resdet.errors import UserError
from resdet.files import checkpoint, writing
from resdet.files.writing import WriteError
from tests.engine.cls_data import CIFAR_YAML, write_cifar10
from tests.engine.conftest import assert_same_end, log_of

SLOW = pytest.mark.slow
TASKS = [pytest.param("detection", marks=SLOW), "classification"]
OVERRIDES = [
    "train.max_steps=6",
    "eval.every=3",
    "checkpoint.every=2",
    "log.every=1",
    "log.tensorboard=true",
]


@pytest.fixture(scope="module")
def configs(tiny, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cifar")
    config = folder / "cifar.yaml"
    config.write_text(CIFAR_YAML.format(root=write_cifar10(folder / "data")))
    return {"detection": tiny.config, "classification": config}


def train(config: Path, run: Path, *overrides: str) -> Path:
    return resdet.train(config, [*OVERRIDES, *overrides], run_dir=run, device="cpu")


def resume(run: Path) -> Path:
    return resdet.train(None, [], run_dir=run, resume=True, device="cpu")


@pytest.fixture(scope="module")
def whole(configs, tmp_path_factory) -> Callable[[str], Path]:
    """The run of a task that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return functools.cache(lambda task: train(configs[task], folder / task))


class Disk:
    """Where the writer's files go: it takes `room` bytes, or refuses by `number` from then on."""

    def __init__(self, room: float, number: int = errno.ENOSPC) -> None:
        self.room, self.number = room, number

    def take(self, write: Callable[[bytes], int], data: bytes) -> int:
        view = memoryview(data).cast("B")
        if self.room < 1 and len(view):
            raise OSError(self.number, os.strerror(self.number))
        done = write(view[: int(min(self.room, len(view)))])
        self.room -= done
        return done


@contextmanager
def full_disk(disk: Disk) -> Iterator[None]:
    """Everything that resdet writes goes to `disk`."""

    class Limited(io.FileIO):
        def write(self, data, /):
            return disk.take(super().write, data)

    class Raw(Limited, writing._Raw):
        def write(self, data, /):
            try:
                return super().write(data)
            except OSError as error:
                self.refused = error
                raise

    class Growing(writing.GrowingFile):
        def _open(self):
            super()._open()
            self._file.close()
            self._file = Limited(self.path, "a")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_Raw", Raw)
        patch.setattr("resdet.engine.log.GrowingFile", Growing)
        patch.setattr("resdet.engine.events.GrowingFile", Growing)
        yield


def assert_whole(run: Path) -> None:
    """What is there can be read, and nothing is left beside it."""
    for name in ("last.pt", "best.pt"):
        if (run / name).exists():
            checkpoint.load(run / name)
    for path in run.rglob("*.json"):
        json.loads(path.read_text())
    assert not list(run.rglob(".*")), "temporary files and locks are removed"


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, *(pytest.param(n, marks=SLOW) for n in (errno.EDQUOT, errno.EROFS, errno.EIO))],
)
def test_a_disk_that_fills_is_named_and_the_run_can_be_resumed(
    configs, whole, tmp_path, task, number, caplog
):
    """It refuses after the first checkpoint, and stays so to the end."""
    size = (whole(task) / "last.pt").stat().st_size
    run = tmp_path / "run"
    with full_disk(Disk(1.5 * size, number)), pytest.raises(UserError) as caught:
        train(configs[task], run)
    reason = os.strerror(number).lower()
    assert f"last.pt: cannot be written: {reason}" in str(caught.value).lower()
    assert "enforce fail" not in caplog.text and "Traceback" not in caplog.text
    assert_whole(run)
    assert checkpoint.load(run / "last.pt")["step"] == 2
    resume(run)
    assert_same_end(whole(task), run)


@pytest.mark.parametrize("task", TASKS)
def test_a_disk_that_is_freed_in_time_loses_nothing(configs, whole, tmp_path, task, monkeypatch):
    """Full from step 2 to step 5: the run goes on, and saves and logs what is missing."""
    disk = Disk(float("inf"))
    update = resdet.engine.train.update

    def during(training, micro_batches, step):
        disk.room = 0 if 1 <= step <= 4 else float("inf")
        return update(training, micro_batches, step)

    monkeypatch.setattr("resdet.engine.train.update", during)
    run = tmp_path / "run"
    with full_disk(disk):
        train(configs[task], run)
    assert_whole(run)
    ours, theirs = (
        [(line["step"], "eval" in line) for line in log_of(each)] for each in (run, whole(task))
    )
    assert ours == theirs
    one, two = (checkpoint.load(each / "last.pt") for each in (run, whole(task)))
    assert all((one["model"][name] == value).all() for name, value in two["model"].items())


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.3, 0.9, 1.0, 1.01, 1.7, 2.2, 3.1, 4.5, 6.0])
def test_a_disk_that_fills_at_any_byte(configs, whole, tmp_path, task, share):
    size = (whole(task) / "last.pt").stat().st_size
    run = tmp_path / "run"
    try:
        with full_disk(Disk(share * size)):
            train(configs[task], run)
    except WriteError as error:
        assert "no space left on device" in str(error)
    if not run.exists():  # nothing could be written at all
        train(configs[task], run)
    assert_whole(run)
    if (run / "config.yaml").exists():
        resume(run)
    else:
        shutil.rmtree(run)
        train(configs[task], run)
    assert_same_end(whole(task), run)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_limit_of_the_system_for_a_file(configs, whole, tmp_path, task):
    """ulimit -f: plots and lines fit, checkpoints do not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (whole(task) / "last.pt").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(UserError, match=r"last\.pt: cannot be written: file too large; raise"):
            train(configs[task], tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_whole(tmp_path / "run")
    resume(tmp_path / "run")
    assert_same_end(whole(task), tmp_path / "run")


@pytest.mark.parametrize("task", TASKS)
def test_a_removed_run_folder_is_made_again(configs, tmp_path, task, monkeypatch, caplog):
    run = tmp_path / "run"
    update = resdet.engine.train.update

    def during(training, micro_batches, step):
        if step == 2:
            shutil.rmtree(run)
        return update(training, micro_batches, step)

    with monkeypatch.context() as patch:
        patch.setattr("resdet.engine.train.update", during)
        train(configs[task], run)
    assert "was removed, or its lock was; it is made again" in caplog.text
    assert_whole(run)
    assert checkpoint.load(run / "last.pt")["step"] == 6
    assert [line["step"] for line in log_of(run)][-1] == 6
    resume(run)


def test_plots_and_events_end_no_run(configs, whole, tmp_path, monkeypatch, caplog):
    """Files stand where their folders should be, and matplotlib fails by an error of its own."""

    def fail(*args):
        raise RuntimeError("font not found")

    run = tmp_path / "run"
    monkeypatch.setattr("resdet.engine.train.pictures.draw_curves", fail)
    before = resdet.engine.train.prepare_folder

    def blocked(*args):
        before(*args)
        (run / "plots").touch()
        (run / "tensorboard").touch()

    monkeypatch.setattr("resdet.engine.train.prepare_folder", blocked)
    train(configs["classification"], run)
    for words in (
        "plots: cannot be made a folder: file exists",
        "tensorboard: cannot be made a folder: file exists",
        "the curves of log.jsonl cannot be made (RuntimeError: font not found). Training continues",
    ):
        assert words in caplog.text
    assert_same_end(whole("classification"), run)


def test_two_runs_never_write_one_folder(configs, whole, tmp_path, monkeypatch):
    """The second one is refused, new or resumed; --check and an evaluation are not."""
    run = tmp_path / "run"
    update = resdet.engine.train.update

    def during(training, micro_batches, step):
        if step == 3:
            with monkeypatch.context() as patch:
                patch.setattr("resdet.files.lock.TRIED_S", 0.1)
                patch.setattr("resdet.engine.train.update", update)
                with pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
                    resume(run)
                with pytest.raises(UserError, match="this run folder exists"):
                    train(configs["classification"], run)
        return update(training, micro_batches, step)

    monkeypatch.setattr("resdet.engine.train.update", during)
    train(configs["classification"], run)
    assert_whole(run)
    assert_same_end(whole("classification"), run)


def test_a_run_that_cannot_start_leaves_no_folder(configs, tmp_path):
    with pytest.raises(UserError):
        train(configs["classification"], tmp_path / "run", "data.root=nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_small_disk_that_is_really_full(configs, whole, tmp_path, task):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = (whole(task) / "last.pt").stat().st_size
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(2.5 * size)}", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        with pytest.raises(UserError, match=r"cannot be written: no space left on device; free"):
            train(configs[task], disk / "run")
        assert_whole(disk / "run")
        shutil.copytree(disk / "run", tmp_path / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    resume(tmp_path / "run")
    assert_same_end(whole(task), tmp_path / "run")
