"""The command that counts, compares and draws networks and their training."""

import argparse
import re

from resdet.cli import options
from resdet.cli.options import at_least_one, split_arguments


def _image_size(text: str) -> tuple[int, int]:
    """--image-size: 224, or 800x1216 for a height and a width."""
    match = re.fullmatch(r"([1-9]\d*)(?:[x×]([1-9]\d*))?", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: pixels, such as 224 or 800x1216 (height first)"
        )
    height = int(match[1])
    return height, int(match[2] or height)


def _percent(text: str) -> float:
    """--max-error: above 0, at most 100."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: percent above 0, at most 100, is expected")
    return value


def fill_analyze(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s NAME_CONFIG_OR_RUN … [key=value …] [--layers] [--image-size H[xW]] [--out DIR]\n"
        "       %(prog)s --compare | --responses RUN … | --curves RUN … [--out DIR]"
    )
    parser.description = (
        "Count the weighted layers, parameters, multiply-adds per image and memory of networks, "
        "and compare them with\npublished ones. Draw the layer responses of trained networks, and "
        "the training curves of runs."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s resnet50 resnet101 vgg16\n"
        "  %(prog)s resnet50 model.backbone.stride_in_1x1=true --layers --out runs/resnet50_v1\n"
        "  %(prog)s --curves runs/cifar10_plain20 runs/cifar10_plain56\n"
        "  %(prog)s --responses runs/cifar10_resnet20 runs/cifar10_resnet56 --out runs/fig7"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="NAME_CONFIG_OR_RUN … [key=value …]",
        help="backbones (resdet.list_backbones()), YAML files, names of included configs, run "
        "folders or checkpoints; for a detector, its backbone is counted. key=value sets a config "
        "key in each of them",
    )
    _fill_figures(parser)
    parser.add_argument(
        "--layers", action="store_true", help="also print a table of every layer of each network"
    )
    parser.add_argument(
        "--image-size",
        metavar="H[xW]",
        type=_image_size,
        help="image size in pixels, height first; default: the config's test size, 224 for a name "
        "(32 for CIFAR's networks)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for analysis.json, tables as CSV, and figures; default: runs/analysis for "
        "figures; counts are only printed",
    )
    options.add_device(parser, of="with --responses: ")
    options.add_imports(parser)


def _fill_figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compare",
        action="store_true",
        help="depth and parameters of GoogLeNet, VGG, FitNet, Highway and ResNets, and published "
        "errors against parameters",
    )
    parser.add_argument(
        "--responses",
        metavar="RUN",
        nargs="+",
        default=[],
        help="standard deviation of each 3×3 layer's response in trained classifiers (run folders "
        "or checkpoints)",
    )
    parser.add_argument(
        "--images",
        metavar="N",
        type=at_least_one,
        default=1000,
        help="with --responses: number of validation images, spread over the set; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--curves",
        metavar="RUN",
        nargs="+",
        default=[],
        help="training (dashed) and validation error (bold) of classifiers' runs, or training loss "
        "and metrics of detectors', finished or not, side by side",
    )
    parser.add_argument(
        "--max-error",
        metavar="PERCENT",
        type=_percent,
        help="with --curves: upper end of the error axis; default: 20, or more if a run ends above",
    )


def run_analyze(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    names, overrides = split_arguments(args.arguments)
    if not (names or args.compare or args.responses or args.curves):
        parser.error("give a NAME_CONFIG_OR_RUN, or --compare, --responses RUN … or --curves RUN …")
    if not names:
        needless = [*overrides, *(["--layers"] if args.layers else [])]
        needless += ["--image-size"] if args.image_size else []
        if needless:
            parser.error(f"{needless[0]} needs a NAME_CONFIG_OR_RUN")
    if args.max_error is not None and not args.curves:
        parser.error("--max-error needs --curves")
    if not args.responses and args.device is not None:
        parser.error("--device needs --responses; nothing else uses a device")
    options.prepare(imports=args.imports)
    from resdet.commands.analyze import analyze_command

    analyze_command(
        names=names,
        overrides=overrides,
        image_size=args.image_size,
        layers=args.layers,
        compare=args.compare,
        responses=args.responses,
        curves=args.curves,
        num_images=args.images,
        max_error=args.max_error,
        out=args.out,
        device=args.device,
    )
    return 0
