"""Every command once: its options, and the function behind it, imported only when it runs.

`tools/*.py` and the console script `resdet` are doors into `main`. Defaults that belong to a config
are in its schema: a command forwards `key=value` and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.cli_options import at_least_one, fraction, kinds, max_dets, split_overrides
from resdet.errors import UserError

USER_ERROR = 2
"""Exit code for a mistake of the user's; argparse uses the same."""

_OVERRIDES_HELP = (
    "config keys on top of the file, typed as in YAML: optim.lr=1e-3, model.roi.mask_head=null, "
    "data.classes=[cat,dog], model.roi.stages.0.foreground_iou=.6; the last one of a key counts"
)


@dataclass
class Command:
    """One command: `fill` adds its options, `run` does its work and returns the exit code."""

    summary: str
    fill: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, argparse.ArgumentParser], int]


def entry() -> None:
    """The console script `resdet`."""
    raise SystemExit(main(sys.argv[1:]))


def main(argv: Sequence[str], prog: str | None = None) -> int:
    """Run one command, such as ["train-det", "configs/demo_nuclei.yaml"]; returns the exit code.

    A UserError is printed as it is and gives 2, as does a missing package; any other exception
    keeps its traceback. `prog` is how usage lines call the command.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name == "--version":
        import resdet

        print(f"resdet {resdet.__version__}")
        return 0
    if name not in COMMANDS:
        print(f"error: no command {name!r}\n{_overview()}", file=sys.stderr)
        return USER_ERROR
    command = COMMANDS[name]
    parser = argparse.ArgumentParser(
        prog=prog or f"resdet {name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.fill(parser)
    return _guarded(command, parser.parse_intermixed_args(argv[1:]), parser)


def _guarded(command: Command, args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Run a command and turn what the user can mend into a line on stderr."""
    try:
        return command.run(args, parser)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except ImportError as error:
        from resdet.dependencies import explain_import_error

        text = explain_import_error(error)
        if text is None:
            raise
        print(f"error: {text}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of a pipe (head, less) has gone; python would complain again when it exits
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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


def _prepare() -> None:
    """What every command that computes needs: messages on the console, a sound OpenCV."""
    # albumentations would look for a newer version of itself on the network
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # OpenMP threads that spin while they wait are five times slower once a loader process, or
    # anything else, needs one of the cores; read when torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from resdet.dependencies import check_opencv
    from resdet.engine.log import start_console

    start_console(is_main=os.environ.get("RANK", "0") == "0")
    check_opencv()


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="DEVICE", help="cpu, cuda or cuda:1; default: a GPU where there is one"
    )


# train-det


def _fill_train_det(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s CONFIG [key=value …] [--run-dir DIR] [--resume] [--device DEVICE] [--check] "
        "[--strict]"
    )
    parser.description = (
        "Train a detector: one YAML in, a run folder out. The folder holds config.yaml, log.jsonl, "
        "TensorBoard\nevents, last.pt, best.pt, eval.json and plots/."
    )
    parser.epilog = (
        "Several processes:  torchrun --nproc-per-node 8 tools/train_det.py CONFIG …\n"
        "Every config key with its type, default and meaning:  --help-config\n"
        "Examples:\n"
        "  %(prog)s configs/demo_nuclei.yaml train.epochs=5 --run-dir runs/short\n"
        "  %(prog)s --resume --run-dir runs/short"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG [key=value …]",
        help="a YAML file, or the name of a shipped config (demo_nuclei); with --resume it may be "
        f"left out. Then {_OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="folder of the run; default runs/<name of CONFIG>. One that exists is refused without "
        "--resume",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the run folder; a key that differs from the run's "
        "is refused by name",
    )
    _add_device(parser)
    parser.add_argument(
        "--check",
        action="store_true",
        help="resolve the config, count the data, draw one batch, estimate the memory, and stop",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at anything in the data that would be dropped or repaired",
    )
    parser.add_argument(
        "--help-config",
        action="store_true",
        help="print every config key with its type, default and meaning, and stop",
    )


def _run_train_det(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if args.help_config:
        return _run_config_keys(argparse.Namespace(prefix=""), parser)
    from resdet.config.loading import load_config

    config, overrides = split_overrides(args.arguments, parser, "CONFIG")
    if config is None and not args.resume:
        parser.error("give a CONFIG, or --resume --run-dir DIR to go on with a run")
    if config is None and args.run_dir is None:
        parser.error("--resume without a CONFIG needs --run-dir DIR")
    if config is not None:
        # before torch is imported: a mistyped key is answered at once
        load_config(config, overrides)
    _prepare()
    from resdet.engine.train import train

    train(
        config,
        overrides,
        run_dir=args.run_dir,
        resume=args.resume,
        device=args.device,
        check=args.check,
        strict=args.strict,
    )
    return 0


# eval-coco


def _fill_eval_coco(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT [key=value …] [options]\n"
        "       %(prog)s --detections R.json --annotations GT.json [options]"
    )
    parser.description = (
        "COCO metrics of a model on its data.val, or of a file of detections: the 12 numbers of "
        "each kind in a\ntable and in eval.json (fractions of 1), a table per class, and PR curves."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei\n"
        "  %(prog)s runs/mine/best.pt data.val.annotations=other.json --out runs/mine/other\n"
        "  %(prog)s --detections R.json --annotations GT.json --kinds bbox"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN_OR_CHECKPOINT [key=value …]",
        help="a run folder (its best.pt, else last.pt) or a checkpoint file, with averaged weights "
        f"where they are kept. Then {_OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--detections",
        metavar="R.json",
        help="detections in COCO's result format, instead of a run",
    )
    parser.add_argument(
        "--annotations", metavar="GT.json", help="their ground truth, a COCO annotation file"
    )
    parser.add_argument(
        "--kinds",
        metavar="bbox,segm",
        type=kinds,
        help="what to evaluate; default: all that the model or the detections have",
    )
    parser.add_argument(
        "--max-dets",
        metavar="1,10,100",
        type=max_dets,
        help="three caps on the detections an image: for AR, AR, and AP with the last AR; default: "
        "eval.max_dets of the run, 1,10,100 for a file",
    )
    parser.add_argument(
        "--backend",
        choices=("fast", "pycocotools"),
        help="faster-coco-eval, or the slow reference with the same numbers; default: eval.backend "
        "of the run, fast for a file",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for eval.json and the plots; default: the run's folder, or runs/eval_<name of "
        "the detections>",
    )
    _add_device(parser)


def _run_eval_coco(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    run, overrides = split_overrides(args.arguments, parser, "RUN_OR_CHECKPOINT")
    if (run is None) == (args.detections is None):
        parser.error("give a RUN_OR_CHECKPOINT, or --detections R.json --annotations GT.json")
    if (args.detections is None) != (args.annotations is None):
        parser.error("--detections and --annotations belong together; a run has its data.val")
    if run is None and overrides:
        parser.error(f"{overrides[0]}: key=value is for a run, a file of detections has no config")
    _prepare()
    from resdet.evaluation.run import eval_coco_command

    eval_coco_command(
        run=run,
        overrides=overrides,
        detections=args.detections,
        annotations=args.annotations,
        kinds=args.kinds,
        max_dets=args.max_dets,
        backend=args.backend,
        out=args.out,
        device=args.device,
    )
    return 0


# predict


def _fill_predict(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT IMAGE_OR_FOLDER_OR_VIDEO … --out DIR [--score-thresh .5] "
        "[--batch-size N] [--device DEVICE]"
    )
    parser.description = (
        "Find objects in images and videos. DIR gets the drawn images, detections.json (COCO's "
        "result format, original\ncategory ids) and images.json (id, file_name, size, frame)."
    )
    parser.epilog = "Example:\n  %(prog)s runs/demo_nuclei datasets/nuclei/images --out runs/drawn"
    parser.add_argument(
        "model", metavar="RUN_OR_CHECKPOINT", help="a run folder or a checkpoint file"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER_OR_VIDEO",
        help="image files, folders of images, or videos",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument(
        "--score-thresh",
        metavar="S",
        type=fraction,
        default=0.5,
        help="leave out what scores at or below this, 0 to 1; default %(default)s",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=at_least_one,
        default=1,
        help="images a forward pass; default %(default)s",
    )
    _add_device(parser)


def _run_predict(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _prepare()
    from resdet.inference.run import predict_command

    return predict_command(
        run=args.model,
        inputs=args.inputs,
        out=args.out,
        score_thresh=args.score_thresh,
        batch_size=args.batch_size,
        device=args.device,
    )


# config-keys


def _fill_config_keys(parser: argparse.ArgumentParser) -> None:
    parser.description = "Every config key with its type, default and meaning, from the schema."
    parser.add_argument(
        "prefix", nargs="?", default="", help="only the keys that begin so, such as model.rpn"
    )


def _run_config_keys(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from resdet.config.describe import explain_keys

    print(explain_keys(args.prefix))
    return 0


COMMANDS = {
    "train-det": Command("train a detector from a config", _fill_train_det, _run_train_det),
    "eval-coco": Command("COCO metrics of a run or of a file", _fill_eval_coco, _run_eval_coco),
    "predict": Command("draw and save what a model finds", _fill_predict, _run_predict),
    "config-keys": Command("list every config key", _fill_config_keys, _run_config_keys),
}


def tool(file: str, command: str) -> None:
    """The door of tools/X.py: run `command` with the arguments of this process."""
    raise SystemExit(main([command, *sys.argv[1:]], prog=f"tools/{Path(file).name}"))
