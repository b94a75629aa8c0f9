"""The command that checks data before anything is trained on them."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, split_inputs


def fill_check_data(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s CONFIG [key=value …] [options]\n"
        "       %(prog)s DATA | IMAGES ANNOTATIONS [VAL_IMAGES VAL_ANNOTATIONS] [options]"
    )
    parser.description = (
        "Check a data set: annotations and their boxes, image files, images that show the same, "
        "light and sharpness,\nsizes of objects against the config's image size and anchors, rare "
        "classes; and suggest values that fit\nthe data better. Exit code 0; 1 with --strict if "
        "there is any finding; 2 for data that can't be used."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s mine.yaml\n"
        "  %(prog)s my/photos my/train.json my/photos my/val.json --html check.html\n"
        "  %(prog)s my/yolo/data.yaml --strict\n"
        "  %(prog)s my/photos my/train.json --fix my/train_fixed.json"
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="CONFIG_OR_PATHS [key=value …]",
        help="a config; or a folder or file that holds the data, such as data.yaml of YOLO or a "
        "folder of class folders; or the image folder and the annotations, in any format that can "
        "be recognised, and those of validation. Paths are checked against configs/own_data.yaml. "
        f"{OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--fix",
        metavar="OUT.json",
        help="write a corrected COCO file: boxes clipped, those without area and copies of objects "
        "left out, images that can't be used left out; with validation data a second one, "
        "OUT_val.json. The input stays as it is",
    )
    parser.add_argument("--html", metavar="OUT.html", help="write the results as one page")
    parser.add_argument(
        "--strict", action="store_true", help="exit with code 1 if there is any finding"
    )
    parser.add_argument(
        "--no-images",
        dest="images",
        action="store_false",
        help="do not decode images: faster, and finds nothing that only their pixels show. Headers "
        "are read of up to 20,000 images",
    )
    options.add_imports(parser)


def run_check_data(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    paths, overrides = split_inputs(args.arguments)
    if len(paths) not in (1, 2, 4):
        parser.error(
            "give a CONFIG, the folder or file of the data, IMAGES ANNOTATIONS, or these two of "
            f"training and of validation; got {len(paths)} paths"
        )
    options.prepare(imports=args.imports)
    from resdet.commands.check_data import check_data

    findings = check_data(
        paths,
        overrides,
        fix=args.fix,
        html=args.html,
        images=args.images,
    )
    return 1 if findings and args.strict else 0
