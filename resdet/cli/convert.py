"""The command that converts weights to another layout."""

import argparse

from resdet.cli import options


def fill_convert(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s IN OUT [--from ORIGIN[:NAME]] [--to {resdet,torchvision,detectron2,cifar}]"
    )
    parser.description = (
        "Convert weights between resdet's checkpoints, torchvision's state dicts and Detectron2's "
        "files.\nOUT's extension selects the layout: .pt is resdet's, with config and class "
        "names inside;\n.pkl is Detectron2's, with its config beside it as .yaml; .th is that of "
        "pytorch_resnet_cifar10;\n.pth is used by torchvision and Detectron2 and needs --to."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s model_final_a3ec72.pkl mask_r101.pt \\\n"
        "    --from detectron2:COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x\n"
        "  %(prog)s torchvision:maskrcnn_resnet50_fpn_v2 mask_r50.pt\n"
        "  %(prog)s runs/mine mine_d2.pkl\n"
        "  %(prog)s runs/mine mine.pth --to torchvision"
    )
    parser.add_argument(
        "spec",
        metavar="IN",
        help="a run folder, a checkpoint, a file of another toolkit, or a published name: "
        "detectron2:…, torchvision:…, timm:…, cifar:…",
    )
    parser.add_argument("out", metavar="OUT", help="the file to write; IN is never overwritten")
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="ORIGIN[:NAME]",
        help="origin of the file: detectron2, torchvision, timm or cifar, and its model's name if "
        "the file does not identify it",
    )
    parser.add_argument(
        "--to",
        dest="target",
        choices=("resdet", "torchvision", "detectron2", "cifar"),
        help="the layout to write; default: the layout of OUT's extension",
    )


def run_convert(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    options.prepare(is_alone=True)
    from resdet.commands.convert import convert

    for line in convert(args.spec, args.out, origin=args.origin, target=args.target):
        print(line)
    return 0
