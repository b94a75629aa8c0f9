"""Runs the commands and the Python of a page in a prepared folder."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed.run as torchrun

import resdet
from resdet import cli
from tests.docs.pages import Block, Shown, config_of, resdet_words
from tests.docs.prepared import SYSTEM
from tests.docs.runs import Runs, shorten, train_shortly

CURL = """\
#!/bin/bash
# gives the archives of public data sets from the folder SERVED, and asks servers on this machine
case "$*" in *127.0.0.1*|*localhost*) exec {curl} -sS "$@";; esac
file="$SERVED/$(basename "${{@: -1}}")"
if [[ "$1" == *O* ]]; then cp "$file" .; else cat "$file"; fi
"""
GIT = """\
#!/bin/bash
# git clone URL
cp -r "$SERVED/$(basename "$2")" .
"""
START_S = 120
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Workbench:
    """A prepared folder as the working folder, in which the blocks of a section run in turn."""

    def __init__(self, folder: Path, runs: Runs, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.runs = folder, runs
        self.names: dict[str, Any] = {
            "resdet": resdet,
            "frame": np.zeros((64, 96, 3), np.uint8),
        }
        """The variables of Python, with those that a page supposes."""
        self.server: subprocess.Popen[bytes] | None = None
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(resdet, "train", train_shortly)
        programs = folder / "programs"
        programs.mkdir()
        curl = CURL.format(curl=shutil.which("curl"))
        # a link would not find the packages of a virtual environment
        python = f'#!/bin/bash\nexec {sys.executable} "$@"\n'
        for name, script in {"curl": curl, "git": GIT, "python": python}.items():
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        patch.setenv("PATH", os.pathsep.join([str(programs), os.environ["PATH"]]))
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("SERVED", str(folder / "served"))

    def remove(self, name: str) -> Path:
        """The path of a name, where nothing is left."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for above in reversed(path.relative_to(self.folder).parents[:-1]):
            unfold(self.folder / above)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return path

    def write(self, name: str, text: str) -> None:
        self.remove(name).write_text(text, encoding="utf-8")

    def run(self, shown: Shown) -> None:
        """Run a command; AssertionError where it does not end with 0."""
        text = here(shown.text)
        if not shown.words or shown.words[0] == "curl":
            subprocess.run(["bash", "-ec", text], check=True, cwd=self.folder)
            return
        words = [here(word) for word in shown.words]
        if "torchrun" in words:  # its options are read, and one process does the work
            torchrun.get_args_parser().parse_args(words[1:])
        if command := resdet_words(tuple(words)):
            self.run_resdet(command)
        elif words[0] == "python":
            self.run_script(words[1:])
        else:
            raise AssertionError(f"{shown}: no way to run {words[0]}")

    def run_resdet(self, words: list[str]) -> None:
        command = " ".join(words)
        self.runs.provide(command, self.folder)
        if words[0] == "serve":
            self.start_server(words)
            return
        if words[0].startswith("train-") and not {"--resume", "--check"} & set(words):
            for name in outputs(words):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        code = cli.main(shorten(words))
        assert code == 0, f"{command} ends with {code}"

    def run_script(self, words: list[str]) -> None:
        """`python FILE …` in this process."""
        before, folder = sys.argv, sys.path[0]
        sys.argv = list(words)
        try:
            runpy.run_path(words[0], run_name="__main__")
        except SystemExit as error:
            assert not error.code, f"{' '.join(words)} ends with {error.code}"
        finally:
            sys.argv, sys.path[0] = before, folder

    def run_python(self, block: Block) -> None:
        """A block of Python, which goes on with the variables of the blocks before it."""
        code = here(block.text)
        self.runs.provide(code, self.folder)
        exec(compile(code, f"{block.page}:{block.line}", "exec"), self.names)

    def run_config(self, block: Block) -> None:
        """Write the config that a block shows, and read the data of it."""
        name, text = config_of(block)
        self.write(name, text)
        self.run_resdet(["check-data", name, "--no-images"])

    def start_server(self, words: list[str]) -> None:
        """Start `resdet serve …` as a process of its own, and wait until it gives its address."""
        self.stop_server()
        log = self.folder / "server.log"
        with log.open("wb") as file:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "resdet", *words], stdout=file, stderr=file, cwd=self.folder
            )
        start = time.monotonic()
        while not is_ready(log.read_text()):
            assert self.server.poll() is None, log.read_text()
            assert time.monotonic() - start < START_S, log.read_text()
            time.sleep(0.2)

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None


def is_ready(printed: str) -> bool:
    """Whether the server has printed its address, and answers there."""
    address = re.search(r"http://[\d.]+:\d+", printed)
    try:
        return address is not None and OPENER.open(f"{address[0]}/health").status == 200
    except OSError:
        return False


def unfold(folder: Path) -> None:
    """A link to a folder becomes a folder of links, so that what it leads to is left alone."""
    if folder.is_symlink():
        target = folder.resolve()
        folder.unlink()
        folder.mkdir()
        for path in target.iterdir():
            (folder / path.name).symlink_to(path)


def here(text: str) -> str:
    """Folders at the root of the file system are in the working folder."""
    for theirs, ours in SYSTEM.items():
        text = re.sub(rf"(?<![\w.]){theirs}", ours, text)
    return text


def outputs(words: list[str]) -> list[str]:
    """Folders that a training fills."""
    if "--run-dir" in words:
        return [words[words.index("--run-dir") + 1]]
    return [f"runs/{Path(word).stem}" for word in words if word.endswith(".yaml")]
