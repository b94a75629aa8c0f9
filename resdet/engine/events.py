"""TensorBoard's event files, written by the calling thread: an error is the caller's to handle.

torch's SummaryWriter writes from a thread of its own, which prints a traceback where the disk is
full, and stands in the way of forked loader processes.
"""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from resdet.files.writing import GrowingFile, make_folder

VERSION = "brain.Event:2"


class EventFile:
    """A new event file in `folder`. WriteError where the disk refuses; what it refuses is written
    before the next event."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """TensorBoard hides what earlier files have of `first_step` and later ones."""
        make_folder(folder, "--run-dir")
        now = time.time()
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}"
        taken = len(list(folder.glob(f"{name}.*")))
        self._file = GrowingFile(folder / f"{name}.{taken}")
        start = SessionLog(status=SessionLog.START)
        self._add(Event(wall_time=now, step=first_step, file_version=VERSION))
        self._add(Event(wall_time=now, step=first_step, session_log=start))

    def add_scalars(self, prefix: str, values: dict[str, Any], step: int) -> None:
        """The numbers among `values`, each as a scalar `prefix/name`."""
        scalars = [
            Summary.Value(tag=f"{prefix}/{name}", simple_value=value)
            for name, value in values.items()
            if isinstance(value, int | float) and name != "step"
        ]
        if scalars:
            self._add(Event(wall_time=time.time(), step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Any) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._file.append(record.getvalue())
