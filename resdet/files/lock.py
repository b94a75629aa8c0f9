"""A lock on a folder, so that two processes never write into one.

The file `.lock` in the folder names the process and its host. While the process lives, an flock is
held on the file, which the kernel releases with the process, killed or not: on one machine a killed
process never blocks the next one. Disks that machines share may not pass an flock on, and some
systems have none. There the beat of the file counts: a thread touches it every `BEAT_S` seconds,
and a file that does not change for `STALE_S` seconds belongs to a process that has ended.
"""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from resdet.errors import UserError
from resdet.files.writing import WriteError, make_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("resdet")

LOCK_FILE = ".lock"
BEAT_S, STALE_S = 10.0, 60.0
TRIED_S = 2.0
"""How long an flock is tried: a killed process needs a moment to end."""
WRITTEN_S = 0.5
"""When a lock without flock is read again, to see whether another process wrote it as well."""
POLL_S = 0.2
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system without flock answers."""


@dataclass(frozen=True)
class Holder:
    """The process in a lock file."""

    pid: int
    host: str
    machine: str
    """The same for processes between which an flock works, such as those of two containers."""
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class FolderLock:
    """The lock of a folder that exists, held from `acquire` to `release`."""

    def __init__(self, folder: Path, option: str = "--run-dir") -> None:
        """`option` chooses the folder on the command line."""
        self.folder, self.path, self.option = folder, folder / LOCK_FILE, option
        self.own = Holder(os.getpid(), socket.gethostname(), machine(), secrets.token_hex(8))
        self._file: int | None = None
        self._ended = threading.Event()

    def acquire(self) -> None:
        """Take the lock, with a note in the log where its last holder was killed.

        UserError where another process holds it; WriteError where the folder refuses a file.
        """
        while self._file is None:
            self._file = self._open()
        self._ended = threading.Event()
        threading.Thread(target=self._beat, name="resdet-lock", daemon=True).start()
        _held.add(self)

    def check(self) -> bool:
        """Whether the lock is in its place. One that was removed, perhaps with its folder, is
        made again.

        UserError where another process took the folder meanwhile; WriteError as of `acquire`.
        """
        holder = read_holder(self.path)
        if holder == self.own and self._file is not None:
            return True
        if holder not in (self.own, None):
            raise UserError(
                f"{self.folder}: {holder} has taken over this folder; this process ends without "
                "writing to it any more"
            )
        make_folder(self.folder, self.option)
        self._ended.set()
        self.forget()
        self.acquire()
        return False

    def release(self) -> None:
        """Give the lock back; nothing where it is not held."""
        self._ended.set()
        if self._file is None:
            return
        is_own = read_holder(self.path) == self.own
        if fcntl is None:  # Windows removes no open file
            self.forget()
        if is_own:
            with suppress(OSError):
                self.path.unlink()
        self.forget()

    def forget(self) -> None:
        """Close the file, as a forked process does: an flock ends with the last file of a fork."""
        _held.discard(self)
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
            self._file = None

    def _open(self) -> int | None:
        """The lock file, held by this process; None where it was replaced meanwhile."""
        no_follow = getattr(os, "O_NOFOLLOW", 0)
        file: int | None = None
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | no_follow, 0o666)
            has_flock = self._take_flock(file)
            if not _is_at(file, self.path):
                return None
            former = read_holder(self.path)
            if former is not None and former != self.own:
                self._wait_for_end(former, has_flock=has_flock)
            os.ftruncate(file, 0)
            os.write(file, json.dumps(asdict(self.own)).encode())
            if not has_flock:
                time.sleep(WRITTEN_S)
                if (other := read_holder(self.path)) not in (self.own, None):
                    raise self._in_use(other)
            held, file = file, None
            return held
        except OSError as error:
            raise WriteError(self.path, error) from error
        finally:
            if file is not None:
                os.close(file)

    def _take_flock(self, file: int) -> bool:
        """Whether this process has the flock; not where the system has none, or another machine
        has it, which may be down. UserError where another process here has it."""
        if fcntl is None:
            return False
        end = time.monotonic() + TRIED_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                holder = read_holder(self.path)
                if holder is not None and holder.machine != self.own.machine:
                    return False
                if time.monotonic() > end:
                    raise self._in_use(holder) from None
                time.sleep(POLL_S)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                return False

    def _wait_for_end(self, former: Holder, *, has_flock: bool) -> None:
        """Return once `former` is known to have ended; UserError as soon as it is seen alive."""
        if not has_flock or former.machine != self.own.machine:
            before = _beat_of(self.path)
            # clocks of two machines differ: what counts is whether the file changes
            left = STALE_S - _age(self.path)
            if left > 0:
                logger.info(
                    f"{self.folder}: waiting up to {left:.0f} s to see whether {former}, which "
                    "has this folder, still runs"
                )
            end = time.monotonic() + left
            while time.monotonic() < end:
                time.sleep(POLL_S)
                if _beat_of(self.path) != before:
                    raise self._in_use(read_holder(self.path))
        logger.info(f"{self.folder}: taken over from {former}, which ended without releasing it")

    def _in_use(self, holder: Holder | None) -> UserError:
        return UserError(
            f"{self.folder}: in use by {holder or 'another process'}; wait until it has ended, "
            f"stop it, or give another folder with {self.option}"
        )

    def _beat(self) -> None:
        """Touch the file until the lock is released."""
        ended, file = self._ended, self._file
        place = file if os.utime in os.supports_fd else self.path
        while not ended.wait(BEAT_S):
            if file is not None and self._file == file:
                with suppress(OSError):
                    os.utime(place)  # type: ignore[arg-type]


@contextmanager
def locked(folder: Path, option: str) -> Iterator[None]:
    """The folder, which exists, locked; see `FolderLock.acquire`."""
    lock = FolderLock(folder, option)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def machine() -> str:
    """The running kernel: its number changes with every start of the machine. Elsewhere than on
    Linux, the name of the host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def held_by(folder: str | Path) -> Holder | None:
    """The living process that holds the lock of a folder, as far as can be seen at once."""
    path = Path(folder) / LOCK_FILE
    holder = read_holder(path)
    if holder is None:
        return None
    try:
        if fcntl is None or holder.machine != machine():
            return holder if time.time() - path.stat().st_mtime < STALE_S else None
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return holder
    except OSError:
        return None


def read_holder(path: Path) -> Holder | None:
    """Who is in a lock file; None without one that is whole."""
    try:
        values = json.loads(path.read_bytes())
        return Holder(int(values["pid"]), *(str(values[k]) for k in ("host", "machine", "token")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_at(file: int, path: Path) -> bool:
    """Whether the open file still has that name: a holder removes its own at the end."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _beat_of(path: Path) -> tuple[int, bytes]:
    """What changes with every beat and holder; opening asks the server of a shared disk again."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns, file.read()
    except OSError:
        return 0, b""


def _age(path: Path) -> float:
    """Seconds since the file was touched, by the clock of the disk; 0 where that is unknown."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink()


_held: set[FolderLock] = set()
"""Those of this process."""


def _forget_all() -> None:
    """Loader processes are forked with the files open, and would hold them after a kill."""
    for lock in list(_held):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
