"""The doors: help, exit codes, and how a mistake looks. What they open has tests of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resdet import cli, dependencies, errors
from resdet.errors import UserError

TOOLS = {
    "train_det": "train-det",
    "train_cls": "train-cls",
    "eval_coco": "eval-coco",
    "eval_voc": "eval-voc",
    "eval_imagenet": "eval-imagenet",
    "eval_cls": "eval-cls",
    "analyze": "analyze",
    "check_data": "check-data",
    "convert": "convert",
    "convert_data": "convert-data",
    "predict": "predict",
    "export": "export",
    "report": "report",
    "serve": "serve",
}


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, capture_output=True, text=True, check=False
    )


def imports(done: subprocess.CompletedProcess[str]) -> set[str]:
    """The modules that `python -X importtime` listed."""
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_explains_every_option_without_torch(repo, tmp_path, tool):
    # -X importtime lists what was imported; the working folder is another one on purpose
    done = run("-X", "importtime", str(repo / "tools" / f"{tool}.py"), "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"usage: tools/{tool}.py" in done.stdout
    assert "resdet.cli" in imports(done)
    assert not imports(done) & {"torch", "numpy", "cv2", "pydantic", "yaml"}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_for_every_argument(capsys, command):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    assert f"usage: resdet {command}" in capsys.readouterr().out
    import argparse

    parser = argparse.ArgumentParser()
    cli.COMMANDS[command].fill(parser)
    assert all(action.help for action in parser._actions)


def test_every_command_with_a_tool_is_in_the_folder(repo):
    assert {path.stem for path in (repo / "tools").glob("*.py")} == set(TOOLS)
    assert set(TOOLS.values()) <= set(cli.COMMANDS)


def test_the_overview_and_the_version(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("resdet ")
    assert cli.main(["train"]) == 2
    assert "unknown command 'train'" in capsys.readouterr().err


def test_the_module_is_a_door_too(repo):
    done = run("-m", "resdet", "train-det", "nope", cwd=repo)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nope: no such config file")


def test_messages_name_the_command_that_the_user_can_run(monkeypatch, tmp_path):
    for started, command in [
        ("/usr/bin/resdet", "resdet train-det"),
        ("C:/python/Scripts/resdet.exe", "resdet train-det"),
        ("/home/resdet/resdet/__main__.py", "python -m resdet train-det"),
        ("tools/eval_coco.py", "python tools/train_det.py"),
        ("my_script.py", "python tools/train_det.py"),
        ("", "python tools/train_det.py"),
    ]:
        monkeypatch.setattr(sys, "argv", [started])
        assert errors.command_line("train-det") == command
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages/resdet/errors.py"))
    assert errors.command_line("train-det") == "python -m resdet train-det"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train-det"], "give a CONFIG, or --resume --run-dir DIR"),
        (["train-det", "--resume"], "--resume without a CONFIG needs --run-dir"),
        (["train-det", "a.yaml", "optim.lr=1", "b"], "give one CONFIG, then key=value"),
        (["train-det", "a.yaml", "--resum"], "unrecognized arguments: --resum"),
        (["eval-coco"], "give a RUN_OR_CHECKPOINT, or --detections"),
        (["eval-voc"], "give a RUN_OR_CHECKPOINT, or --detections"),
        (["eval-voc", "runs/x", "--year", "1999"], "invalid choice: 1999"),
        (["eval-imagenet", "runs/x"], "the following arguments are required: --task"),
        (["eval-imagenet", "--task", "loc", "--detections", "p.txt"], "need each other"),
        (["eval-coco", "runs/x", "--detections", "r.json"], "give a RUN_OR_CHECKPOINT, or"),
        (["eval-coco", "--detections", "r.json"], "--detections and --annotations need each other"),
        (
            ["eval-coco", "eval.backend=fast", "--detections", "r", "--annotations", "g"],
            "eval.backend=fast: key=value needs a run",
        ),
        (["eval-coco", "runs/x", "--kinds", "boxes"], "'boxes': bbox, segm or bbox,segm"),
        (["eval-coco", "runs/x", "--max-dets", "1,100"], "'1,100': three numbers above 0"),
        (["eval-coco", "runs/x", "--backend", "slow"], "invalid choice: 'slow'"),
        (["convert", "runs/x"], "the following arguments are required: OUT"),
        (["convert", "runs/x", "o.pt", "--to", "timm"], "invalid choice: 'timm'"),
        (["predict", "runs/x", "--out", "o"], "give an IMAGE_OR_FOLDER_OR_VIDEO after RUN"),
        (["predict", "runs/x", "a.png"], "give --out DIR, the folder for the results"),
        (["predict", "r", "a", "--out", "o", "--score-thresh", "50"], "'50': a number from 0 to 1"),
        (["predict", "r", "a", "--out", "o", "--batch-size", "0"], "'0': a whole number above 0"),
    ],
)
def test_mistakes_in_the_arguments(capsys, argv, message):
    with pytest.raises(SystemExit) as done:
        cli.main(argv)
    assert done.value.code == 2
    assert message in capsys.readouterr().err


def test_predict_takes_overrides_after_the_runs_of_an_ensemble(monkeypatch):
    given = {}
    monkeypatch.setattr("resdet.commands.predict.predict_command", lambda **k: given.update(k))
    cli.main(["predict", "a", "x.png", "--ensemble", "b", "c", "test.flip=true", "--out", "o"])
    assert given["ensemble"] == ["b", "c"] and given["inputs"] == ["x.png"]
    assert given["overrides"] == ["test.flip=true"]


def test_predict_names_proposals_as_they_are_read(capsys):
    assert cli.main(["predict", "runs/x", "--proposals", "train.txt"]) == 2
    assert "is not the name of an npz file; give train.txt.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "resume"),
    [
        (["a.yaml"], False),
        (["--resume", "a.yaml"], True),
        (["--resume", "auto", "a.yaml"], "auto"),
        (["a.yaml", "--resume", "auto", "optim.lr=1"], "auto"),
    ],
)
def test_resume_and_resume_auto(words, resume, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("train: {epochs: 1}")
    seen = {}
    monkeypatch.setattr(cli.options, "prepare", lambda **_: None)
    module = type(sys)("resdet.engine.start")
    module.train = lambda config, overrides, **options: seen.update(options)
    monkeypatch.setitem(sys.modules, "resdet.engine.start", module)
    assert cli.main(["train-det", *words]) == 0
    assert seen["resume"] == resume and seen["run_dir"] == Path("runs/a")


def test_options_may_stand_between_the_arguments(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/a=b.yaml").write_text("train: {epochs: 1}")
    seen = {}
    monkeypatch.setattr(cli.options, "prepare", lambda **_: None)
    module = type(sys)("resdet.engine.start")
    module.train = lambda config, overrides, **options: seen.update(
        options, rate=config.optim.lr, every=config.log.every, overrides=overrides
    )
    monkeypatch.setitem(sys.modules, "resdet.engine.start", module)
    argv = [
        "train-det",
        "optim.lr=1",
        "--run-dir",
        "runs/lr=1",
        "runs/a=b.yaml",
        "--check",
        "log.every=5",
    ]
    assert cli.main(argv) == 0
    names = [schema.__name__ for schema in seen.pop("schema")]
    assert names == ["DetectionConfig", "LocalizationConfig"]
    assert seen == {
        "rate": 1,
        "every": 5,
        "overrides": [],
        "run_dir": Path("runs/lr=1"),
        "resume": False,
        "device": None,
        "check": True,
        "strict": False,
        "lr_find": False,
        "seeds": None,
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["tools/train_det.py", "configs/demo_nuclei.yaml", "model.fpn.out_chanels=3"],
            "error: model.fpn.out_chanels: unknown key, did you mean out_channels? "
            "(override model.fpn.out_chanels=3)",
        ),
        (
            ["tools/train_det.py", "configs/demo_nuclie.yaml"],
            "did you mean configs/demo_nuclei.yaml",
        ),
    ],
)
def test_a_mistake_in_a_config_is_one_line_and_needs_no_torch(repo, args, message):
    done = run("-X", "importtime", *args, cwd=repo)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "torch" not in imports(done)


@pytest.mark.slow
def test_starting_to_evaluate_or_predict_imports_no_torchvision(repo):
    code = "import resdet.commands.eval_cls, resdet.commands.predict, resdet.engine.classification"
    done = run("-X", "importtime", "-c", code, cwd=repo)
    assert done.returncode == 0
    assert "torch" in imports(done)
    # with it comes torch._dynamo: together 5 s of processor time
    assert not imports(done) & {"torchvision", "torch._dynamo"}


@pytest.mark.parametrize("argv", [["eval-coco", "none_there"], ["predict", "none_there", "a.png"]])
def test_a_run_that_is_not_there_is_one_line(monkeypatch, tmp_path, capsys, argv):
    monkeypatch.setattr(cli.options, "prepare", lambda **_: None)
    monkeypatch.chdir(tmp_path)
    Path("a.png").touch()
    assert cli.main([*argv, "--out", "out"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: none_there")
    assert err.count("\n") == 1


def test_every_config_key_is_printed(capsys):
    assert cli.main(["train-det", "--help-config", "model.rpn.num"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "model.rpn.num_convs: 1\n    a whole number above 0 and at most 100\n    3×3 convolutions"
    )
    assert cli.main(["train-cls", "--help-config", "nope"]) == 2
    assert "no config key starts with 'nope'" in capsys.readouterr().err
    assert cli.main(["train-det", "--help-config"]) == 0
    assert "optim.lr: 0.02" in capsys.readouterr().out


def _failing(error: BaseException) -> cli.Command:
    def work(args, parser):
        raise error

    return cli.Command("fails", lambda parser: None, work)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("val.json: no such file"), 2, "error: val.json: no such file\n"),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), 2, "pip install rich, or all"),
        (
            ModuleNotFoundError("No module named 'hotcoco.x'", name="hotcoco.x"),
            2,
            "pip install hotcoco, or all",
        ),
        (ImportError("libGL.so.1: cannot open shared object file"), 2, "OpenCV does not load"),
        (OSError(36, "File name too long", "a\nb"), 2, "error: a\\nb: File name too long\n"),
        (PermissionError(13, "Permission denied", "runs"), 2, "error: runs: Permission denied\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_what_ends_a_command(monkeypatch, capsys, error, code, message):
    monkeypatch.setitem(cli.COMMANDS, "fails", _failing(error))
    assert cli.main(["fails"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rank", "world", "is_shared", "runs"),
    [(0, 1, False, True), (0, 4, False, True), (3, 4, False, False), (3, 4, True, True)],
)
def test_of_several_processes_one_does_the_work_unless_it_is_shared(
    monkeypatch, capsys, rank, world, is_shared, runs
):
    """Training is shared; everything else would be written once per process."""
    done = []

    def work(args, parser):
        done.append(1)
        return 0

    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    command = cli.Command("works", lambda parser: None, work, is_shared)
    monkeypatch.setitem(cli.COMMANDS, "works", command)
    assert cli.main(["works"]) == 0
    assert bool(done) is runs
    note = "resdet works works in one process: the first of the 4 that torchrun started"
    assert (note in capsys.readouterr().err) is (runs and world > 1 and not is_shared)
    shared = {name for name, command in cli.COMMANDS.items() if command.is_shared}
    assert shared - {"works"} == {"train-det", "train-cls"}


def test_a_removed_working_folder_is_reported(monkeypatch, capsys, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert cli.main(["predict", "runs/x", "a.png"]) == 2
    assert "error: the working folder was removed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [ValueError("ours"), OSError("ours"), ModuleNotFoundError("no", name="resdet.x")]
)
def test_bugs_keep_their_traceback(monkeypatch, error):
    monkeypatch.setitem(cli.COMMANDS, "fails", _failing(error))
    with pytest.raises(type(error)):
        cli.main(["fails"])


def test_a_broken_pair_of_opencvs_is_named(monkeypatch):
    dependencies.check_opencv()
    monkeypatch.setitem(sys.modules, "cv2", type(sys)("cv2"))
    installed = {"opencv-python", "opencv-python-headless"}
    monkeypatch.setattr(dependencies, "_is_installed", installed.__contains__)
    with pytest.raises(UserError) as caught:
        dependencies.check_opencv()
    assert str(caught.value) == (
        "OpenCV is broken: cv2 imports, but it is empty; opencv-python and opencv-python-headless "
        "share the same files. Run: pip uninstall -y opencv-python opencv-python-headless && "
        "pip install opencv-python-headless"
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libx.so: failed to map segment from shared object")]
)
def test_too_little_memory_is_one_line(monkeypatch, capsys, error):
    def run(*_):
        raise error

    monkeypatch.setitem(cli.COMMANDS, "predict", cli.Command("", lambda parser: None, run))
    assert cli.main(["predict"]) == cli.USER_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "ulimit -v" in lines[0]
