"""Forks commands from a process that has imported everything: most of a short run is its start.

Run as a program it reads lines of JSON, {"argv": […], "output": PATH}, and answers each by two
lines: the process id at once, and the exit code of the command at its end (−9 where it was killed).
The process imports what a command of the same output has imported. It runs none itself: pools of
threads, such as that of the metrics, do not work in a process that is forked after their start.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path


class KillServer:
    """Starts commands of resdet and kills them."""

    def __init__(self, repo: Path) -> None:
        env = {**os.environ, "PYTHONPATH": str(repo), "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=repo,
            env=env,
        )

    def run(
        self,
        argv: Sequence[str],
        output: Path,
        *,
        kill_at: Callable[[int], object] | None = None,
    ) -> int:
        """The exit code of a command. `kill_at` is called with its process id, and SIGKILL ends it
        when that returns; None kills nothing."""
        assert self.process.stdin is not None and self.process.stdout is not None
        request = {"argv": list(argv), "output": str(output)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        number = int(self.process.stdout.readline())
        if kill_at is not None:
            kill_at(number)
            # it is no other process's: the server waits for it only when it is asked to
            os.kill(number, 9)
        self.process.stdin.write("wait\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    @staticmethod
    def is_running(number: int) -> bool:
        """Whether the command of this process id has not ended; true where that is unknown."""
        try:
            return " Z " not in Path(f"/proc/{number}/stat").read_text()
        except OSError:
            return True

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)


@functools.cache
def import_module(name: str) -> None:
    with contextlib.suppress(Exception):
        importlib.import_module(name)


def serve() -> None:
    import tests.golden.tiny_backbone  # noqa: F401  registers the backbone
    from resdet import cli

    for line in sys.stdin:
        request = json.loads(line)
        modules = Path(request["output"]).with_suffix(".modules")
        if modules.exists():
            for name in modules.read_text().splitlines():
                import_module(name)
        number = os.fork()
        if number == 0:
            code = 70
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                output = os.open(request["output"], flags, 0o666)
                for stream, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output)):
                    os.dup2(file, stream)
                os.dup2(output, 2)
                code = cli.main(request["argv"])
                names = [name for name in sys.modules if name != "__main__"]
                modules.write_text("\n".join(names))
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(number, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
