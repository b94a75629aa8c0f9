"""What a command's output is connected to changes nothing of what it does."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resdet import cli
from resdet.cli import streams

EVERY = (
    "import sys\nfrom resdet import cli\ncodes = []\n"
    "for argv in [[], ['--version'], ['nothing'], *([c, '--help'] for c in cli.COMMANDS),\n"
    "             *([c] for c in ('eval-coco', 'predict')), ['train-cls', '--help-config']]:\n"
    "    try:\n        cli.run_program(argv)\n"
    "    except SystemExit as ended:\n        codes.append(ended.code)\n"
    "open(sys.argv[1], 'w').write(repr(codes))\n"
)


def run_all(tmp_path: Path, redirect: str, **env: str) -> tuple[list[int], str, str]:
    """Every command's help and some mistakes in one process: exit codes, stdout and stderr."""
    command = f'exec "$0" -c "$1" "$2" {redirect}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, EVERY, str(tmp_path / "codes")],
        capture_output=True,
        env={**os.environ, **env},
        check=True,
    )
    codes = eval((tmp_path / "codes").read_text())
    return codes, *(each.decode(errors="replace") for each in (done.stdout, done.stderr))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line_and_an_exit_code(tmp_path):
    codes, _, err = run_all(tmp_path, "> /dev/full")
    assert "Traceback" not in err and "Exception ignored" not in err
    assert "warning: some lines of the output are lost: no space left on device" in err
    assert set(codes) <= {0, 1, 2} and codes[:3] == [1, 1, 2]


@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&- <&-", "2>&1 | head -c 0"])
def test_output_that_goes_nowhere_is_no_error(tmp_path, redirect):
    codes, _, err = run_all(tmp_path, redirect)
    assert "Traceback" not in err and "Exception ignored" not in err and "lost" not in err
    assert codes[:2] == [0, 0] and set(codes) == {0, 2}


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:replace", "PYTHONUNBUFFERED": "1"},
    ],
)
def test_other_encodings_have_the_words(tmp_path, env):
    codes, out, err = run_all(tmp_path, "", **env)
    assert "Traceback" not in err and set(codes) == {0, 2}
    assert "usage: resdet COMMAND " in out and "train-det" in out
    if env.get("PYTHONIOENCODING") == "ascii":
        assert out.isascii() and "usage: resdet COMMAND ...  " in out
    if env.get("PYTHONIOENCODING") == "ascii:replace":
        assert "usage: resdet COMMAND ?  " in out


def test_every_help_can_be_spelled_in_ascii():
    import codecs

    codecs.register_error(streams.HANDLER, streams._spell)
    for command in cli.COMMANDS.values():
        parser = argparse.ArgumentParser()
        command.fill(parser)
        spelled = parser.format_help().encode("ascii", streams.HANDLER)
        assert b"\\u" not in spelled and b"\\x" not in spelled, spelled
    assert "caf\udce9 ü\u202e".encode("ascii", streams.HANDLER) == b"caf\\udce9 \\xfc\\u202e"


def test_the_streams_of_a_program_that_replaced_them_stay(capsys):
    """Such as pytest's, or a notebook's."""
    before = sys.stdout, sys.stderr
    assert streams.open_streams() == (None, None)
    assert (sys.stdout, sys.stderr) == before
    assert streams.close_streams(None, "predict", 0) == 0


def test_a_pipe_that_does_not_block_takes_all(tmp_path):
    code = (
        "import os, sys\nfrom resdet.cli.streams import open_streams\n"
        "os.set_blocking(1, False)\nopen_streams()\nprint('x' * 10**6)\n"
    )
    command = f'{sys.executable} -c "$0" | (sleep 0.3; wc -c)'
    done = subprocess.run(["sh", "-c", command, code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("1000001", "")
