"""The command line of the benchmark."""

import subprocess
import sys

import pytest

from resdet import cli
from tools.benchmark.options import fill_benchmark, run_benchmark

BENCHMARK = cli.Command("benchmark", fill_benchmark, run_benchmark)


def test_help_from_another_folder(repo, tmp_path):
    command = [sys.executable, str(repo / "tools" / "benchmark"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: tools/benchmark" in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["eval", "--objects", "2", "--steps", "3"], "not accept --objects, --steps"),
        (["infer", "--objects", "3"], "infer does not accept --objects"),
        (["cls", "--images", "x"], "cls does not accept --images"),
        (["data", "--photos", "x"], "--photos goes with --root"),
    ],
)
def test_benchmark_refuses_options_of_other_works(argv, said, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.run_command(BENCHMARK, argv, "tools/benchmark")
    assert said in capsys.readouterr().err
