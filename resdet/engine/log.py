"""The log of a run: lines or a progress bar on the console, log.jsonl, TensorBoard, trackers."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resdet.errors import UserError, printable
from resdet.files.run_log import parse_record
from resdet.files.writing import GrowingFile, WriteError, write_text

if TYPE_CHECKING:
    from resdet.engine.events import EventFile
    from resdet.engine.trackers import Trackers

logger = logging.getLogger("resdet")


class _Console(logging.Handler):
    """Prints to whatever stdout is at the time, so that lines appear above a progress bar.

    A warning that was shown is not repeated: every validation finds the same notes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        # Only errors have several lines: a newline elsewhere is in the name of a file or class.
        errors = isinstance(record.args, tuple) and any(
            isinstance(each, UserError) for each in record.args
        )
        text = printable(record.getMessage(), keep="\n" if errors else "")
        if record.levelno >= logging.WARNING:
            if text in self.shown:
                return
            self.shown.add(text)
            text = f"{record.levelname.lower()}: {text}"
        show(text)


def show(text: str) -> None:
    """Print a line; what can't be printed any more, such as after `| head`, is left out."""
    try:
        print(text, file=sys.stdout, flush=True)
    except UnicodeEncodeError:
        show(text.encode("ascii", "backslashreplace").decode())
    except (OSError, ValueError):  # its reader has gone, the disk is full; it was closed
        pass


def start_console(is_main: bool) -> None:
    """Print the package's messages in the main process; only errors elsewhere. Forgets
    what was shown, so that a second run in one program has all its warnings.

    A program that configured logging itself keeps its handlers.
    """
    logger.setLevel(logging.INFO if is_main else logging.ERROR)
    for handler in logger.handlers:
        if isinstance(handler, _Console):
            handler.shown.clear()
    if not logger.hasHandlers():
        logger.addHandler(_Console())
        logger.propagate = False


def cut_log(path: Path, step: int, *, validation_is_due: bool = False) -> int:
    """Drop the lines of log.jsonl after `step`, and a line cut short; returns how many went.

    Metrics of `step` itself go as well where its validation is about to be made again.
    """
    if not path.is_file():
        return 0
    lines = path.read_bytes().decode(errors="replace").split("\n")
    # what follows the last line's end: nothing, or a line cut short
    lines = lines if lines[-1] else lines[:-1]
    kept = [line for line in lines if _place_of(line) <= (step, not validation_is_due)]
    if len(kept) != len(lines):
        write_text(path, "".join(f"{line}\n" for line in kept))
    return len(lines) - len(kept)


def _place_of(line: str) -> tuple[float, bool]:
    """Step, and whether these are its metrics, which come after its losses."""
    record = parse_record(line)
    return (math.inf, True) if record is None else (record["step"], "eval" in record)


@contextmanager
def optional(what: str) -> Iterator[None]:
    """What is drawn or logged inside never ends a run: an error becomes a warning."""
    try:
        yield
    except WriteError as error:
        logger.warning(f"{error}. Training continues")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning(f"{what} cannot be made ({reason}). Training continues")


class RunLog:
    """The log of one run, written by the main process; silent in the others.

    A full disk or a removed folder is a warning: lines and events that could not be written are
    written once they can be.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_main: bool,
        tensorboard: bool,
        start_step: int,
        total_steps: int,
        trackers: Trackers | None = None,
    ) -> None:
        self.total_steps = total_steps
        self._file: GrowingFile | None = None
        self._events: EventFile | None = None
        self._progress: Progress | None = None
        self._remarked: set[str] = set()
        self._trackers = trackers
        if not is_main:
            return
        self._file = GrowingFile(folder / "log.jsonl")
        if tensorboard:
            from resdet.engine.events import EventFile

            with optional("TensorBoard's events"):
                # Events after the checkpoint belong to steps that are about to run again.
                self._events = EventFile(folder / "tensorboard", start_step + 1)
        if sys.stdout.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                refresh_per_second=2,
            )
            self._task = self._progress.add_task(
                "train", total=total_steps, completed=start_step, numbers=""
            )
            self._progress.start()

    def advance(self) -> None:
        """One more step on the bar."""
        if self._progress is not None:
            self._progress.advance(self._task)

    def training(self, line: dict[str, Any], eta_s: float) -> None:
        """A line of losses: step, epoch, loss, loss_…, lr, images_per_s, memory_mb."""
        self._write(line)
        self._scalars("train", line, line["step"])
        numbers = f"loss {line['loss']:.4f}  lr {line['lr']:.3g}  {line['images_per_s']:.1f} img/s"
        if self._progress is not None:
            self._progress.update(self._task, numbers=numbers)
            return
        left = timedelta(seconds=round(eta_s))
        parts = [f"{k[5:]} {v:.4f}" for k, v in line.items() if k.startswith("loss_")]
        if "error_percent" in line:
            parts.append(f"error {line['error_percent']:.2f} %")
        if "num_broken" in line:
            parts.append(f"{line['num_broken']} broken image(s)")
        logger.info(
            f"step {line['step']}/{self.total_steps}  epoch {line['epoch']:.2f}  {numbers}  "
            f"{line['memory_mb']:.0f} MB  {left} left  ({'  '.join(parts)})"
        )

    def evaluation(self, line: dict[str, Any], words: str) -> None:
        """A validation: step, epoch, eval {name: number, or kind: {name: number}}, val_loss,
        val_losses, eval_s; and the same for a person."""
        self._write(line)
        plain = {name: value for name, value in line["eval"].items() if not isinstance(value, dict)}
        kinds = {name: value for name, value in line["eval"].items() if isinstance(value, dict)}
        for kind, numbers in {"eval": plain, **kinds}.items():
            self._scalars(kind, numbers, line["step"])
        if line["val_loss"] is not None:
            self._scalars("val", {"loss": line["val_loss"], **line["val_losses"]}, line["step"])
        logger.info(f"validation at step {line['step']}: {words} ({line['eval_s']:.0f} s)")

    def remark(self, sentences: Sequence[str]) -> None:
        """Log sentences for a person, each once per run."""
        for sentence in dict.fromkeys(sentences):
            if sentence not in self._remarked:
                logger.info(sentence)
                self._remarked.add(sentence)

    def close(self) -> None:
        if self._progress is not None:
            with suppress(OSError, ValueError):  # a terminal that has gone
                self._progress.stop()
        if self._events is not None:
            with optional("TensorBoard's events"):
                self._events.close()
        if self._trackers is not None:
            self._trackers.close()
        if self._file is not None:
            with optional("log.jsonl"):
                self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            with optional("log.jsonl"):
                self._file.append(json.dumps(_finite(line), allow_nan=False).encode() + b"\n")

    def _scalars(self, prefix: str, values: dict[str, Any], step: int) -> None:
        if self._events is not None:
            with optional("TensorBoard's events"):
                self._events.add_scalars(prefix, values, step)
        if self._trackers is not None:
            self._trackers.log(prefix, values, step)


class Pace:
    """Images per second since the last call, without the pauses."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._images = 0

    def add(self, images: int) -> None:
        self._images += images

    def images_per_s(self) -> float:
        now = time.perf_counter()
        speed = self._images / max(now - self._start, 1e-9)
        self._start, self._images = now, 0
        return speed

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """JSON has no inf or NaN, which fp16 gradient norms and validation losses may be: null."""
    return {key: _finite_value(value) for key, value in line.items()}


def _finite_value(value: Any) -> Any:
    if isinstance(value, dict):
        return _finite(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
