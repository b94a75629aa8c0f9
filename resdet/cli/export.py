"""The command that writes a trained model for another runtime."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, at_least_one


def fill_export(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_NAME OUT.{onnx,xml,pt2} [key=value …] [--dynamic | --size HEIGHT WIDTH]\n"
        "           [--precision {fp32,fp16,int8}] [--paste] [--check IMAGES] [options]"
    )
    parser.description = (
        "Write a trained detector or classifier for ONNX Runtime (.onnx), OpenVINO (.xml and .bin) "
        "or torch.export (.pt2).\nNormalisation, NMS and the choice of the best detections are "
        "inside. OUT.json beside it has class names and sizes,\nand OUT.py runs the model without "
        "resdet: it resizes images and pastes masks with numpy and Pillow."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/mine mine.onnx --dynamic --check datasets/mine/images\n"
        "  %(prog)s runs/mine mine.xml --size 800 1344 --precision int8\n"
        "  %(prog)s torchvision:maskrcnn_resnet50_fpn_v2 mask_r50.onnx --dynamic"
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="RUN_OR_NAME OUT [key=value …]",
        help="a run folder (its best.pt, else last.pt), a checkpoint, or a published name such as "
        f"torchvision:maskrcnn_resnet50_fpn_v2; then the file to write. {OVERRIDES_HELP}",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--dynamic",
        action="store_true",
        help="any number of images of any size; with a pyramid their padded sides are multiples of "
        "32. Otherwise one image of a fixed size at a time",
    )
    size.add_argument(
        "--size",
        metavar=("HEIGHT", "WIDTH"),
        nargs=2,
        type=at_least_one,
        help="the fixed size in pixels that a detector's images are padded to; default: the "
        "longest side of data.test_resize for both, which holds images of either orientation",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="number format of the weights; int8 is calibrated on the training images; default: "
        "%(default)s",
    )
    parser.add_argument(
        "--paste",
        action="store_true",
        help="paste masks into the original image inside the model, which then also takes "
        "original_sizes; all images of a batch have one original size",
    )
    _add_images(parser)
    parser.add_argument(
        "--source",
        metavar="ORIGIN[:NAME]",
        help="origin of a file of another toolkit: detectron2, torchvision, timm or cifar, and its "
        "model's name, if the file does not identify it",
    )
    options.add_imports(parser)


def _add_images(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check",
        metavar="IMAGES",
        help="compare detections on the images of a folder with those of PyTorch in every runtime "
        "that is installed, and fail if they differ; val: the run's data.val",
    )
    parser.add_argument(
        "--annotations",
        metavar="TRUTH",
        help="ground truth of a detector's --check IMAGES, in any format of training data",
    )
    parser.add_argument(
        "--check-images",
        metavar="N",
        type=at_least_one,
        help="check at most N images, spread over all; default: 20",
    )
    parser.add_argument(
        "--calibrate",
        metavar="IMAGES",
        help="a folder of images that int8 is calibrated on; default: the run's training images",
    )
    parser.add_argument(
        "--calibrate-images",
        metavar="N",
        type=at_least_one,
        help="calibrate on at most N images, spread over all; default: 100",
    )


def run_export(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    given, overrides = options.split_arguments(args.arguments)
    if len(given) != 2:
        parser.error(f"give one model and one file to write; got {' and '.join(given)}")
    if args.annotations and not args.check:
        parser.error("--annotations has the ground truth of --check IMAGES; give --check too")
    if args.check_images and not args.check:
        parser.error("--check-images is for --check IMAGES; give it too")
    for name in ("calibrate", "calibrate_images"):
        if getattr(args, name) and args.precision != "int8":
            option = f"--{name.replace('_', '-')}"
            parser.error(f"{option} is for --precision int8; add it, or leave {option} out")
    options.prepare(imports=args.imports, is_alone=True)
    from resdet.commands.export import Check, Form, export_command

    export_command(
        *given,
        source=args.source,
        overrides=overrides,
        form=Form(
            dynamic=args.dynamic,
            size=tuple(args.size) if args.size else None,
            precision=args.precision,
            pasted=args.paste,
            calibrate=args.calibrate,
            calibrate_images=args.calibrate_images or Form.calibrate_images,
        ),
        check=Check(args.check, args.annotations, args.check_images or Check.count)
        if args.check
        else None,
    )
    return 0
