"""Forks commands from a process that has imported everything: most of a short run is its start.

Run as a program it reads lines of JSON. {"argv": […], "output": PATH, "env": {…}} starts a command
and is answered by its process id; {"wait": ID} by its exit code at its end (−9 where it was
killed). The process imports what a command of the same output has imported. It runs none itself:
pools of threads, such as that of the metrics, do not work in a process that is forked after their
start.
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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn


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

    def start(self, argv: Sequence[str], output: Path, env: Mapping[str, str] | None = None) -> int:
        """The process id of a command that begins; `env` is added to its environment."""
        return self._ask({"argv": list(argv), "output": str(output), "env": dict(env or {})})

    def wait(self, number: int) -> int:
        """The exit code of a command, at its end."""
        return self._ask({"wait": number})

    def run(
        self,
        argv: Sequence[str],
        output: Path,
        *,
        kill_at: Callable[[int], object] | None = None,
    ) -> int:
        """The exit code of a command. `kill_at` is called with its process id, and SIGKILL ends it
        when that returns; None kills nothing."""
        number = self.start(argv, output)
        if kill_at is not None:
            kill_at(number)
            # it is no other process's: the server waits for it only when it is asked to
            os.kill(number, 9)
        return self.wait(number)

    def _ask(self, request: Mapping[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
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
    import resdet.engine.start  # noqa: F401  what every command imports
    import tests.golden.tiny_backbone  # noqa: F401  registers the backbone

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        modules = Path(request["output"]).with_suffix(".modules")
        if modules.exists():
            for name in modules.read_text().splitlines():
                import_module(name)
        number = os.fork()
        if number == 0:
            os.environ.update(request["env"])
            execute(request["argv"], request["output"], modules)
        print(number, flush=True)


def execute(argv: list[str], output: str, modules: Path) -> NoReturn:
    """Run a command in this process, which ends with it."""
    from resdet import cli

    code = 70
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
            os.dup2(target, stream)
        code = cli.main(argv)
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


if __name__ == "__main__":
    serve()
