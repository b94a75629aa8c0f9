"""The command that evaluates detectors, localizers and prediction files by ImageNet's metrics."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP


def fill_eval_imagenet(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s --task det|loc RUN_OR_CHECKPOINT … [key=value …] [options]\n"
        "       %(prog)s --task det|loc --detections PREDICTIONS --annotations TRUTH [options]"
    )
    parser.description = (
        "Evaluate a model on its data.val, or a prediction file of the ILSVRC devkits, by "
        "ImageNet's metrics: AP with a\nthreshold per object (det, as eval_detection.m), or the "
        "error of five guesses per image (loc, as eval_clsloc.m).\nPrint the numbers and a table "
        "per class, and write eval.json, per_class.csv and, for det, precision-recall curves."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s --task det runs/imagenet_det_faster_rcnn_r101_c4\n"
        "  %(prog)s --task loc runs/imagenet_loc_rpn_r101 --oracle\n"
        "  %(prog)s --task loc runs/imagenet_loc_rcnn_r101 --proposals runs/imagenet_loc_rpn_r101\n"
        "      --classifier runs/imagenet_resnet101 --crops dense test.views=dense\n"
        "  %(prog)s --task det --detections predictions.txt "
        "--annotations ILSVRC/ImageSets/DET/val2.txt\n"
        "  %(prog)s --task loc --detections predictions.txt "
        "--annotations ILSVRC/Annotations/CLS-LOC/val\n"
        "      --ground-truth ILSVRC2012_validation_ground_truth.txt"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN_OR_CHECKPOINT … [key=value …]",
        help="run folders (best.pt, else last.pt) or checkpoints; several need --ensemble. "
        f"{OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--task",
        choices=("det", "loc"),
        required=True,
        help="det: detection of 200 classes; loc: localization, five guesses of a class and a box",
    )
    _add_localizers(parser)
    _add_files(parser)
    options.add_strict(parser)
    options.add_out(parser)
    options.add_inference(parser)


def _add_localizers(parser: argparse.ArgumentParser) -> None:
    """What runs of --task loc take."""
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="average several runs of the same classes: detectors (det), or localizers that are "
        "all RPNs or all R-CNNs (loc)",
    )
    parser.add_argument(
        "--classifier",
        metavar="RUN",
        action="append",
        default=[],
        help="loc: localize the five best classes of a classifier, a run or a published name; "
        "if given several times, those with the best mean softmax",
    )
    parser.add_argument(
        "--oracle", action="store_true", help="loc: localize the true class, with one guess"
    )
    parser.add_argument(
        "--proposals",
        metavar="RPN_OR_FILE",
        action="append",
        default=[],
        help="loc, for R-CNNs: the run of an RPN, or a file of predict --proposals; may be given "
        "several times; default: the files of data.proposals",
    )
    options.add_crops(parser, "views for --classifier. ")


def _add_files(parser: argparse.ArgumentParser) -> None:
    """The devkit's prediction files, and what belongs to them."""
    parser.add_argument(
        "--detections",
        metavar="PREDICTIONS",
        help="evaluate a prediction file instead of a run: lines `image_index label score x1 y1 x2 "
        "y2` (det), or one line per image of up to five guesses `label x1 y1 x2 y2` (loc); may be "
        "packed as .gz, .xz, .bz2 or .zip",
    )
    options.add_truth(parser, "imagenet_det or imagenet_loc", "a list of images or a folder of XML")
    parser.add_argument(
        "--ground-truth",
        metavar="FILE",
        help="loc: the devkit's ILSVRC2012_validation_ground_truth.txt, meta.mat or "
        "map_clsloc.txt, any of which gives the devkit's class numbers; default: labels are the "
        "category ids of the annotations",
    )
    parser.add_argument(
        "--blacklist",
        metavar="FILE",
        help="the devkit's list of images (loc) or of images and classes (det) that are not "
        "evaluated; default: none",
    )
    parser.add_argument(
        "--submission",
        action="store_true",
        help="also write a prediction file as the devkit reads it, and for loc Kaggle's CSV",
    )


def run_eval_imagenet(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    run, overrides = options.split_runs(args, parser)
    options.check_sources(run, args, overrides, parser)
    options.prepare(imports=args.imports)
    from resdet.commands.eval_imagenet import eval_imagenet_command
    from resdet.commands.loc_options import LocOptions

    eval_imagenet_command(
        task=args.task,
        run=run,
        overrides=overrides,
        loc=LocOptions(args.classifier, args.oracle, args.proposals, args.crops, args.scales),
        detections=args.detections,
        annotations=args.annotations,
        format=args.format,
        ground_truth=args.ground_truth,
        blacklist=args.blacklist,
        submission=args.submission,
        strict=args.strict,
        out=args.out,
        device=args.device,
        precision=args.precision,
    )
    return 0
