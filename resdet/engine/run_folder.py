"""The folder of a run: a new one, or one to resume from its last checkpoint."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resdet.config.loading import (
    AnyConfig,
    Schema,
    config_from_dict,
    diff_configs,
    dump_yaml,
    load_any_config,
    override_config,
    train_command,
    with_batch_size,
)
from resdet.data.detection.split import SPLIT_FILE, Split, read_split
from resdet.engine import distributed
from resdet.engine.distributed import Processes
from resdet.engine.resume import alternative, load_state, unusable
from resdet.errors import UserError
from resdet.factory.network import KINDS, resolve_config
from resdet.files import writing
from resdet.files.checkpoint import PREVIOUS, load
from resdet.files.lock import LOCK_FILE, FolderLock
from resdet.files.writing import check_folder, is_leftover, remove_leftovers, write_text

logger = logging.getLogger("resdet")

WRITTEN = ("last.pt", "best.pt", "config.yaml", SPLIT_FILE, "log.jsonl")
"""What a run alone writes into its folder; others may be writing the results of an evaluation."""

# These change no number of the run, so that --resume may come with other values.
FREE_KEYS = (
    *("imports", "data.workers", "data.max_broken", "data.max_pixels"),
    *("log.every", "log.tensorboard", "log.trackers", "log.report", "checkpoint.every"),
    *("train.early_stop", "train.early_stop.patience", "train.max_hours"),
)
FILE_KEYS = ("images", "annotations", "format")
# The files behind these are compared by what they hold, so that data may move.
PATH_KEYS = (
    *(f"data.{part}.{key}" for part in ("train", "val") for key in FILE_KEYS),
    *(f"data.{part}.{key}" for part in ("train", "val") for key in ("root", "ground_truth")),
    *("data.train.table", "data.val.table"),
    *("data.root", "data.proposals.train", "data.proposals.val", "loss.teacher"),
)
# A run may become longer; `setup.log_longer` says what this does to its schedule.
LENGTH_KEYS = ("train.max_steps", "train.epochs")


@dataclass
class Run:
    """What `train` starts from."""

    folder: Path
    config: AnyConfig
    checkpoint: dict[str, Any] | None
    """The content of last.pt to resume from; None starts at step 0."""
    split: Split | None = None
    """What a run with a checkpoint has held out of its training data."""


def open_run(
    config: AnyConfig | None,
    folder: Path,
    *,
    resume: bool = False,
    overrides: Sequence[str] = (),
    schema: Schema | None = None,
) -> Run:
    """The run that the arguments mean; writes nothing. `schema` None takes a run of any task.

    `overrides` go on top of the stored config of a run that is resumed without `config`.
    UserError for a folder that exists without `resume`, one that does not with it, and keys that
    were changed since the run began.
    """
    if not resume:
        if config is None:
            raise UserError("give a CONFIG to train, or --resume --run-dir DIR to resume a run")
        check_unused(folder)
        return Run(folder, config, None)
    stored = folder / "config.yaml"
    if not folder.is_dir():
        raise UserError(f"{folder}: no run to resume; leave out --resume to start it")
    last = folder / "last.pt"
    if not last.is_file() and not stored.is_file():
        raise UserError(
            f"{folder}: holds neither last.pt nor config.yaml, so there is no run to resume; "
            "remove it and leave out --resume"
        )
    if not last.is_file() and (folder / PREVIOUS).is_file():
        raise UserError(f"{last}: is missing; {alternative(last)}")
    state = load_state(last) if last.is_file() else None
    old = _config_of(state, last) if state else load_any_config(stored)
    if state is None:
        _check_start(folder)
    if schema is not None and not isinstance(old, schema):
        raise UserError(f"{folder}: a run of {old.task}; resume it with {train_command(old.task)}")
    if config is None:
        new = override_config(old, overrides, str(folder)) if overrides else old
    elif type(config) is type(old):
        new = resolve_config(config).config
    else:
        raise UserError(f"{folder}: a {old.task} run, but CONFIG is for {config.task}")
    if new.train.batch_size == "auto" and old.train.batch_size != "auto":
        new = with_batch_size(new, old.train.images_per_step)
    check_changes(old, new, source=folder)
    if state:
        _check_owner(old, last, stored)
    return Run(folder, new, state, stored_split(folder) if state else None)


def _check_start(folder: Path) -> None:
    """UserError where a run has lost its last.pt, which best.pt shows it had; otherwise it begins
    again."""
    last, best = folder / "last.pt", folder / "best.pt"
    found: dict[str, Any] = {}
    if best.is_file():
        with suppress(UserError):
            found = load(best)
    if found.get("had_last") is True:
        raise UserError(f"{last}: is missing, and best.pt is of a later step; {alternative(last)}")
    logger.info("%s: has no last.pt yet; the run starts from its beginning", folder)


def check_unused(folder: Path) -> None:
    """UserError for a file, and for a folder with files in it, other than those of a run that was
    killed before it had written any."""
    if folder.is_file():
        raise UserError(f"{folder}: a file, not a folder; give another one with --run-dir")
    if _has_files(folder):
        raise UserError(
            f"{folder}: this run folder exists; resume it with --resume, "
            "or give another one with --run-dir"
        )


def has_begun(folder: Path, processes: Processes) -> bool:
    """Whether there is a run in `folder` to resume, as the main process sees it."""
    has_files: bool = distributed.broadcast(processes.is_main and _has_files(folder), processes)
    return has_files


def _has_files(folder: Path) -> bool:
    """Whether there are any but those of a run that was killed before it had written its own."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name != LOCK_FILE and not is_leftover(name) for name in names)


class Claim:
    """A run folder, made and locked by the main process until `close`."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes
        self.lock: FolderLock | None = None
        """Of the main process, once taken."""
        self._was_there = folder.exists()

    def take(self, *, is_new: bool) -> None:
        """Every process calls it. UserError in all of them where another run has the folder, where
        it can't be made, and where one that `is_new` has got files meanwhile."""
        refusal: UserError | None = None
        if self.processes.is_main:
            try:
                make_folder(self.folder)
                lock = FolderLock(self.folder)
                lock.acquire()
                self.lock = lock
                if is_new:
                    check_unused(self.folder)
                remove_leftovers(self.folder, WRITTEN)
                remove_leftovers(self.folder / "plots")
            except UserError as error:
                refusal = error
        text = distributed.broadcast(str(refusal) if refusal else None, self.processes)
        if text is not None:
            raise refusal or UserError(text)

    def close(self) -> None:
        """Release the lock; a folder that was made for a run that did not start goes again."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None
            if not self._was_there:
                with suppress(OSError):  # there are files in it
                    self.folder.rmdir()


def choose_folder(config: object, run_dir: str | Path | None) -> Path:
    """--run-dir, else runs/<stem of the config file> below the current folder."""
    if run_dir is not None:
        if Path(run_dir).is_file():
            raise UserError(f"--run-dir {run_dir}: is a file; give a folder for the run")
        return Path(run_dir)
    if not isinstance(config, str | Path):
        raise UserError("no run folder is given; give --run-dir DIR, or the file of its CONFIG")
    return Path("runs") / Path(config).stem


def _config_of(state: dict[str, Any], path: Path) -> AnyConfig:
    """The config in a checkpoint; UserError, with what else to start from, for a damaged one."""
    try:
        config = config_from_dict(state["config"], str(path))
    except UserError as error:
        raise unusable(path, [str(error)]) from error
    if KINDS[type(config)] != state["kind"]:
        raise unusable(path, [f"it is a {state['kind']} with a config for {config.task}"])
    return config


def _check_owner(own: AnyConfig, last: Path, stored: Path) -> None:
    """UserError where last.pt was made by another config than the one stored beside it."""
    try:
        beside = load_any_config(stored)
    except UserError:
        return  # it is written again from the checkpoint
    if type(beside) is not type(own):
        differing = f"task: {beside.task} → {own.task}"
    else:
        differing = _listed(_refused(own, beside))
    if differing:
        raise UserError(
            f"{last}: its config is not that of {stored} beside it ({differing}): one of the two "
            f"is another run's or was edited; restore it, or remove {stored} to resume by the "
            "checkpoint's config"
        )


def check_changes(old: AnyConfig, new: AnyConfig, *, source: Path) -> None:
    """UserError that names every key whose change would make the resumed run another one."""
    listed = _listed(_refused(old, new))
    if not listed:
        return
    raise UserError(
        f"{source}: a resumed run keeps its config, and these keys differ (old → new): {listed}. "
        "Leave CONFIG and these keys out to resume as before, or start a new run with --run-dir. "
        f"Free to change: {', '.join(FREE_KEYS)}, the paths of data that moved, and to a larger "
        f"number {' or '.join(LENGTH_KEYS)}"
    )


def _refused(old: AnyConfig, new: AnyConfig) -> list[tuple[str, Any, Any]]:
    """(key, old, new) of what differs and may not."""
    return [
        (key, before, after)
        for key, before, after in diff_configs(old, new)
        if key not in FREE_KEYS + PATH_KEYS and not _is_longer(key, before, after)
    ]


def _listed(changes: Sequence[tuple[str, Any, Any]]) -> str:
    return "; ".join(f"{key}: {before} → {after}" for key, before, after in changes)


def _is_longer(key: str, before: Any, after: Any) -> bool:
    return key in LENGTH_KEYS and before is not None and after is not None and after > before


def prepare_folder(run: Run, split: Split | None = None) -> None:
    """Make the folder and write its config.yaml, and what the run holds out for validation; the
    main process only.

    UserError where that is not allowed.
    """
    make_folder(run.folder)
    write_text(run.folder / "config.yaml", dump_yaml(run.config))
    if split is not None:
        split.write(run.folder / SPLIT_FILE)


def stored_split(run: str | Path) -> Split | None:
    """What a run, given by its folder or one of its checkpoints, holds out of its training data;
    None without such a file. DataError for one that can't be read."""
    path = Path(run)
    file = (path if path.is_dir() else path.parent) / SPLIT_FILE
    return read_split(file) if file.is_file() else None


def make_folder(folder: Path) -> None:
    """UserError where `folder` cannot be made, or nothing can be written in it."""
    check_folder(writing.make_folder(folder, "--run-dir"), "--run-dir")
