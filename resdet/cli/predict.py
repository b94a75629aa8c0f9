"""The command that draws and stores the predictions of a model."""

import argparse

from resdet.cli import options
from resdet.cli.options import at_least_one, fraction, split_inputs


def fill_predict(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT IMAGE_OR_FOLDER_OR_VIDEO … [key=value …] --out DIR [options]"
    )
    parser.description = (
        "Detect objects in images and videos, or classify them. DIR receives the drawn images. A "
        "detector also writes\ndetections.json (COCO's result format, original category ids) and "
        "images.json (id, file_name, size, frame);\na classifier writes predictions.json (file and "
        "five best classes)."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei datasets/nuclei/images --out runs/drawn\n"
        "  %(prog)s runs/a images test.flip=true test.scales=[640,800,960] --out runs/drawn\n"
        "  %(prog)s runs/a images --ensemble runs/b runs/c --out runs/drawn"
    )
    parser.add_argument(
        "model",
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder, a checkpoint, or a published name such as "
        "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE_OR_FOLDER_OR_VIDEO",
        help="image files, folders of images, or videos; key=value among them overrides a "
        "detector's config (test.flip=true), unless it is the name of a file",
    )
    parser.add_argument(
        "--ensemble",
        nargs="+",
        metavar="RUN_OR_CHECKPOINT",
        default=[],
        help="further detectors of the same classes: each classifies the proposals of all, and "
        "their scores and boxes are averaged",
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the results")
    parser.add_argument(
        "--score-thresh",
        metavar="S",
        type=fraction,
        help="drop detections or classes with this score (0 to 1) or less; default: .5 for a "
        "detector; a classifier keeps five classes",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=at_least_one,
        default=1,
        help="images per forward pass; default %(default)s",
    )
    options.add_device(parser)
    options.add_precision(parser)
    options.add_imports(parser)


def run_predict(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    files, overrides = split_inputs(args.inputs)
    if not files:
        parser.error("give an IMAGE_OR_FOLDER_OR_VIDEO beside key=value")
    options.prepare(imports=args.imports)
    from resdet.commands.predict import predict_command

    return predict_command(
        run=args.model,
        inputs=files,
        ensemble=args.ensemble,
        overrides=overrides,
        out=args.out,
        score_thresh=args.score_thresh,
        batch_size=args.batch_size,
        device=args.device,
        precision=args.precision,
    )
