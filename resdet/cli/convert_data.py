"""The command that converts annotations to another format."""

import argparse

from resdet.cli import options


def fill_convert_data(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s IN OUT --to {coco,labelme,voc,yolo} [--images DIR] [--format FORMAT]"
    parser.description = (
        "Convert annotations of any format that training reads. OUT is a .json file for coco, and "
        "a folder for\nlabelme, voc and yolo; voc's and yolo's link to the folder of the images. "
        "Nothing is overwritten, and what\nthe format can't hold is counted."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s my/data.yaml train.json --to coco --part train\n"
        "  %(prog)s my/annotations.xml yolo_set --to yolo --images my/photos\n"
        "  %(prog)s my/train.json voc_set --to voc --images my/photos"
    )
    parser.add_argument(
        "source", metavar="IN", help="annotations, as data.train.annotations takes them"
    )
    parser.add_argument("out", metavar="OUT", help="what to write; nothing may be there")
    parser.add_argument(
        "--to",
        dest="target",
        choices=("coco", "labelme", "voc", "yolo"),
        required=True,
        help="the format to write",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="the folder of the images; default: IN, or where it is"
    )
    parser.add_argument(
        "--format", metavar="FORMAT", help="format of IN, as in data.train.format; default: found"
    )
    parser.add_argument(
        "--part",
        choices=("train", "val", "test"),
        help="which images of IN, if it has those of several parts, as data.yaml has",
    )
    options.add_strict(parser)


def run_convert_data(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    options.prepare(is_alone=True)
    from resdet.commands.convert_data import convert_data

    lines = convert_data(
        args.source,
        args.out,
        args.target,
        images=args.images,
        format=args.format,
        part=args.part,
        strict=args.strict,
    )
    for line in lines:
        print(line)
    return 0
