"""Every command once: its options, and the function behind it, imported only when it runs.

`tools/*.py` and the console script `resdet` are entry points to `main`. Defaults of configs are in
their schemas: a command forwards `key=value` and nothing else.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from resdet.cli.analyze import fill_analyze, run_analyze
from resdet.cli.check_data import fill_check_data, run_check_data
from resdet.cli.convert import fill_convert, run_convert
from resdet.cli.convert_data import fill_convert_data, run_convert_data
from resdet.cli.eval_cls import fill_eval_cls, run_eval_cls
from resdet.cli.eval_coco import fill_eval_coco, run_eval_coco
from resdet.cli.eval_imagenet import fill_eval_imagenet, run_eval_imagenet
from resdet.cli.eval_voc import fill_eval_voc, run_eval_voc
from resdet.cli.export import fill_export, run_export
from resdet.cli.predict import fill_predict, run_predict
from resdet.cli.report import fill_report, run_report
from resdet.cli.serve import fill_serve, run_serve
from resdet.cli.streams import close_streams, open_streams
from resdet.cli.train import fill_train_cls, fill_train_det, run_train_cls, run_train_det
from resdet.errors import Incomplete, Reported, UserError, printable
from resdet.version import __version__

USER_ERROR = 2
"""Exit code for a mistake of the user; argparse uses the same."""
INCOMPLETE = 1
"""Exit code where results were written that lack some of the input."""


@dataclass
class Command:
    """One command: `fill` adds its options, `run` does its work and returns the exit code."""

    summary: str
    fill: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, argparse.ArgumentParser], int]
    is_shared: bool = False
    """Whether the processes that torchrun starts share the work; else the first one does it."""


def entry() -> None:
    """The console script `resdet`."""
    run_program(sys.argv[1:])


def run_program(argv: Sequence[str], prog: str | None = None) -> NoReturn:
    """Run one command as this process, with whatever its output is connected to."""
    out, _ = open_streams()
    code = 1
    try:
        code = main(argv, prog)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    _leave(close_streams(out, argv[0] if argv else "", code))


def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Run one command, such as ["train-det", "configs/demo_nuclei.yaml"]; returns the exit code.

    A UserError is printed as it is and gives 2, as do a missing package and missing memory; any
    other exception keeps its traceback. `prog` is how usage lines call the command.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"resdet {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}\n{_overview()}", file=sys.stderr)
        return USER_ERROR
    return run_command(COMMANDS[name], argv[1:], prog or f"resdet {name}")


class _Parser(argparse.ArgumentParser):
    """Shows what is hidden in arguments, which may be names of files that a shell filled in."""

    def error(self, message: str) -> NoReturn:
        if not _is_first():
            self.exit(USER_ERROR)
        super().error(printable(message))


def run_command(command: Command, argv: Sequence[str], prog: str) -> int:
    """Parse the arguments `argv` of one command and run it; returns the exit code."""
    if not command.is_shared and _has_others(prog):
        return 0
    parser = _Parser(
        prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    command.fill(parser)
    return _guarded(command, parser.parse_intermixed_args(argv), parser)


def _guarded(command: Command, args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run a command; print errors that the user can fix as one line on stderr."""
    try:
        _check_working_folder()
        return command.run(args, parser)
    except Reported:
        return USER_ERROR
    except UserError as error:
        _report(str(error))
        return INCOMPLETE if isinstance(error, Incomplete) else USER_ERROR
    except ImportError as error:
        from resdet.dependencies import explain_import_error

        text = explain_import_error(error)
        if text is None:
            raise
        _report(text)
        return USER_ERROR
    except OSError as error:
        # such as a name that is too long for the system, or a folder that may not be searched
        if error.filename is None or error.strerror is None:
            raise
        _report(f"{printable(str(error.filename))}: {error.strerror}")
        return USER_ERROR
    except MemoryError as error:
        _report(
            f"not enough memory{f' ({error})' if str(error) else ''}; raise the limit of the "
            "process (`ulimit -v`, or that of the container), or lower the batch size"
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130


def _check_working_folder() -> None:
    """UserError where the working folder is gone: libraries end the process without it."""
    try:
        Path.cwd()
    except OSError as error:
        raise UserError("the working folder was removed; change to one that is there") from error


def _report(text: str) -> None:
    """An error on stderr; of several processes that have not joined yet, the first of a machine
    reports it, as the others met the same."""
    torch = sys.modules.get("torch")
    has_joined = torch is not None and torch.distributed.is_initialized()
    if has_joined or _is_first():
        print(f"error: {text}", file=sys.stderr)


def _has_others(prog: str) -> bool:
    """Whether another process of torchrun does the whole work, so that results are written once;
    the one that does says so."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return False
    if os.environ.get("RANK", "0") != "0":
        return True
    print(
        f"{prog} works in one process: the first of the {count} that torchrun started does all of "
        "it, and the others end",
        file=sys.stderr,
    )
    return False


def _is_first() -> bool:
    """Whether this is the first process that torchrun has started here, or the only one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _leave(code: int) -> NoReturn:
    """End with the exit code; at once after an error of one of several processes, as a GPU may wait
    for what another one will never send."""
    if code and os.environ.get("WORLD_SIZE", "1") != "1":
        os._exit(code)
    raise SystemExit(code)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: resdet COMMAND …      (resdet COMMAND --help explains every option)",
            "",
            "commands:",
            *lines,
        ]
    )


COMMANDS = {
    "train-det": Command(
        "train a detector from a config", fill_train_det, run_train_det, is_shared=True
    ),
    "train-cls": Command(
        "train a classifier from a config", fill_train_cls, run_train_cls, is_shared=True
    ),
    "check-data": Command("check data before training on them", fill_check_data, run_check_data),
    "eval-coco": Command(
        "evaluate a detector, or a file of detections", fill_eval_coco, run_eval_coco
    ),
    "eval-voc": Command(
        "evaluate a detector, or result files, by PASCAL VOC's metric", fill_eval_voc, run_eval_voc
    ),
    "eval-imagenet": Command(
        "evaluate a detector, a localizer, or predictions, by ImageNet's metrics",
        fill_eval_imagenet,
        run_eval_imagenet,
    ),
    "eval-cls": Command("evaluate classifiers", fill_eval_cls, run_eval_cls),
    "report": Command("explain runs on one page", fill_report, run_report),
    "analyze": Command("compare networks and runs", fill_analyze, run_analyze),
    "predict": Command("detect or classify in images and videos", fill_predict, run_predict),
    "export": Command("write a model for ONNX Runtime or OpenVINO", fill_export, run_export),
    "serve": Command("answer HTTP requests with predictions", fill_serve, run_serve),
    "convert": Command("convert weights to another toolkit's layout", fill_convert, run_convert),
    "convert-data": Command(
        "convert annotations to COCO, VOC or YOLO", fill_convert_data, run_convert_data
    ),
}


def tool(file: str, command: str) -> None:
    """The entry point of tools/X.py: run `command` with the arguments of this process."""
    run_program([command, *sys.argv[1:]], prog=f"tools/{Path(file).name}")
