"""What commands share: reading of option values, and preparation before every computation."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

OVERRIDES_HELP = (
    "key=value overrides the config, typed as in YAML: optim.lr=1e-3, data.classes=[cat,dog], "
    "optim.clip_norm=null, optim.milestones.0=6000; if a key is given twice, the last value counts"
)

_OVERRIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*=")


def split_arguments(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """Positional arguments → those that are not `key=value`, and the overrides."""
    overrides = [item for item in items if _OVERRIDE.match(item)]
    return [item for item in items if not _OVERRIDE.match(item)], overrides


def split_inputs(items: Sequence[str]) -> tuple[list[str], list[str]]:
    """As `split_arguments`, of files: what exists is a file, whatever its name."""
    # unlike those of Path they take names that no system has, and users who do not exist
    exists = {
        item
        for item in items
        if os.path.exists(os.path.expanduser(item))  # noqa: PTH110, PTH111
    }
    _, overrides = split_arguments([item for item in items if item not in exists])
    return [item for item in items if item not in overrides], overrides


def split_overrides(
    items: Sequence[str], parser: argparse.ArgumentParser, what: str
) -> tuple[str | None, list[str]]:
    """As `split_arguments`, where at most one is not a `key=value`: that one or None."""
    others, overrides = split_arguments(items)
    if len(others) > 1:
        parser.error(f"give one {what}, then key=value; got {' and '.join(others)}")
    return (others[0] if others else None), overrides


def split_runs(
    args: argparse.Namespace, parser: argparse.ArgumentParser
) -> tuple[str | list[str] | None, list[str]]:
    """`args.arguments` → a run, the runs of an --ensemble, or None; and the overrides."""
    runs, overrides = split_arguments(args.arguments)
    if args.ensemble:
        if len(runs) < 2:
            parser.error("--ensemble needs two runs or more")
        return runs, overrides
    if len(runs) > 1:
        parser.error(f"{', '.join(runs)}: several runs need --ensemble")
    return (runs[0] if runs else None), overrides


def add_ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="combine several runs of the same classes: each classifies the proposals of all, and "
        "their scores and boxes are averaged; data, metric and thresholds are those of the first",
    )


def add_members(parser: argparse.ArgumentParser) -> None:
    """Further models beside the one that is a positional argument."""
    parser.add_argument(
        "--ensemble",
        nargs="+",
        metavar="RUN_OR_CHECKPOINT",
        default=[],
        help="further detectors of the same classes: each classifies the proposals of all, and "
        "their scores and boxes are averaged",
    )


def split_members(args: argparse.Namespace) -> list[str]:
    """The key=value after the last RUN of --ensemble, which are taken out of it."""
    args.ensemble, overrides = split_inputs(args.ensemble)
    return overrides


def kinds(text: str) -> list[str]:
    """--kinds: bbox, segm, or both with a comma."""
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in ("bbox", "segm")]
    if wrong or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: bbox, segm or bbox,segm is expected")
    return names


def max_dets(text: str) -> list[int]:
    """--max-dets: three whole numbers above 0 with commas."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: three numbers above 0, such as 1,10,100")
    return [int(part) for part in parts]


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 1 is expected")
    return value


def at_least_one(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is expected")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0 is expected")
    return int(text)


def add_imports(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--imports",
        metavar="MODULE[,MODULE]",
        type=lambda text: text.split(","),
        default=[],
        help="Python modules of your own that the run needs, such as the one with its backbone; "
        "a stored config never imports code by itself",
    )


def prepare(
    *, imports: Sequence[str] = (), folder: Path | None = None, is_alone: bool = False
) -> None:
    """What every command that computes needs: messages on the console, a sound OpenCV, memory.

    `imports` are the modules of --imports, looked for in `folder` too. `is_alone` tells that no
    loader process will work beside torch's threads.
    """
    # albumentations would look for a newer version of itself on the network
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # OpenMP threads that spin while they wait are five times slower once a loader process, or
    # anything else, needs one of the cores, and a third faster without; read when torch is imported
    if not is_alone:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from resdet.dependencies import check_opencv
    from resdet.engine.log import start_console
    from resdet.memory import keep_memory

    start_console(is_main=os.environ.get("RANK", "0") == "0")
    check_opencv()
    keep_memory()
    if imports:
        from resdet.factory.imports import import_modules

        import_modules(imports, folder)


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """How large images are cut."""
    parser.add_argument(
        "--tile",
        metavar="N",
        type=not_negative,
        help="cut images into tiles with a side of N pixels, at the resolution that the detector "
        "was trained at, and merge their detections; 0 takes images whole; default: data.tile of "
        "the model's config",
    )
    parser.add_argument(
        "--overlap",
        metavar="S",
        type=fraction,
        help="share of a tile's side that neighbours have in common, 0 to .9; default: .2, or "
        "data.tile.overlap of the model's config",
    )


def add_inference(parser: argparse.ArgumentParser) -> None:
    """What every command with a trained model takes."""
    add_device(parser)
    add_precision(parser)
    add_imports(parser)


def add_device(parser: argparse.ArgumentParser, of: str = "") -> None:
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help=f"{of}cpu, cuda or cuda:1; default: a GPU if there is one",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="number format of the network; default: that of the run's config (auto). auto is bf16 "
        "if the processor supports it, and fp32 for imported weights",
    )


def add_crops(parser: argparse.ArgumentParser, of: str = "") -> None:
    """The views of a classifier."""
    parser.add_argument(
        "--crops",
        choices=("1", "10", "dense"),
        default="1",
        help=f"{of}1: the centre of data.test_size pixels after a resize to data.test_resize; 10: "
        "four corners, centre, and their mirror images; dense: the whole image and its mirror "
        "image at --scales, fully convolutional; default %(default)s",
    )
    parser.add_argument(
        "--scales",
        metavar="A,B,…",
        type=_short_sides,
        help="with --crops dense: short sides in pixels; default: 224,256,384,480,640 if "
        "data.test_size is 224, else in proportion to it",
    )


def _short_sides(text: str) -> list[int]:
    """--scales: whole numbers above 0 with commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: pixels with commas, such as 224,256,384")
    return [int(part) for part in parts]


def add_truth(parser: argparse.ArgumentParser, default: str, example: str) -> None:
    parser.add_argument(
        "--annotations",
        metavar="TRUTH",
        action="append",
        help=f"ground truth for --detections, such as {example}; may be given several times",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help=f"format of --annotations, as in data.val.format; default: {default}",
    )


def check_sources(
    run: str | list[str] | None,
    args: argparse.Namespace,
    overrides: Sequence[str],
    parser: argparse.ArgumentParser,
) -> None:
    """Either a run, or --detections with --annotations; errors of the parser."""
    if (run is None) == (args.detections is None):
        parser.error("give a RUN_OR_CHECKPOINT, or --detections RESULTS --annotations TRUTH")
    if (args.detections is None) != (args.annotations is None):
        parser.error("--detections and --annotations need each other; a run has its data.val")
    if run is None and overrides:
        parser.error(f"{overrides[0]}: key=value needs a run; a file of detections has no config")


def add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop if any annotation or detection would have to be dropped or repaired",
    )


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for eval.json and the plots; default: the run's folder, or runs/eval_<name of "
        "the detections>",
    )
