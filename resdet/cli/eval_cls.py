"""The command that evaluates classifiers."""

import argparse

from resdet.cli import options
from resdet.cli.options import split_arguments


def fill_eval_cls(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN_OR_CHECKPOINT … [key=value …] [options]"
    parser.description = (
        "Evaluate classifiers on their data.val: top-1 and top-5 accuracy in percent as a table, "
        "and in each run's folder\neval.json, scores.npz (logits float32 (N, K), labels, files, "
        "class_names) and confusion.png. With several crops or\nscales, logits are the logarithm "
        "of the mean softmax. Images that cannot be read are reported and skipped."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/cifar10_resnet20\n"
        "  %(prog)s runs/mine --crops dense --scales 224,256,384,480,640\n"
        "  %(prog)s torchvision:resnet50.IMAGENET1K_V2 data.val.root=imagenet/val --crops 10\n"
        "  %(prog)s runs/a runs/b --ensemble --out runs/both"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN_OR_CHECKPOINT … [key=value …]",
        help="run folders (best.pt, else last.pt), checkpoint files, or published names such "
        "as torchvision:resnet50.IMAGENET1K_V2 and timm:resnet50.a1_in1k; averaged weights are "
        "used if there are any. key=value overrides each run's config: "
        "data.val.root=DIR, data.holdout=0, data.test_size=288; if a key is given twice, the last "
        "one counts",
    )
    options.add_crops(parser)
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="also evaluate the mean of the runs' softmax",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the results, with one subfolder per run if there are several; default: "
        "each run's own folder, and runs/eval_<names> for results of several runs",
    )
    options.add_inference(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop if anything is wrong with the data; if an image turns out to be broken later, "
        "exit with code 1 after writing the results",
    )


def run_eval_cls(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    runs, overrides = split_arguments(args.arguments)
    if not runs:
        parser.error("give a RUN_OR_CHECKPOINT, or several")
    if args.ensemble and len(runs) < 2:
        parser.error("--ensemble needs two runs or more")
    if args.scales is not None and args.crops != "dense":
        parser.error("--scales needs --crops dense")
    options.prepare(imports=args.imports)
    from resdet.commands.eval_cls import eval_cls_command

    eval_cls_command(
        runs=runs,
        overrides=overrides,
        crops=args.crops,
        scales=args.scales,
        ensemble=args.ensemble,
        out=args.out,
        device=args.device,
        precision=args.precision,
        strict=args.strict,
    )
    return 0
