"""The command that evaluates detectors and result files by PASCAL VOC's metric."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, split_runs


def fill_eval_voc(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT [key=value …] [options]\n"
        "       %(prog)s RUN RUN … --ensemble [key=value …] [options]\n"
        "       %(prog)s --detections RESULTS --annotations TRUTH [options]"
    )
    parser.description = (
        "Evaluate a model on its data.val, or VOC's result files, by PASCAL VOC's metric: AP at an "
        "overlap of .5,\nas VOCevaldet.m computes it. Print mAP and a table per class, and write "
        "eval.json (fractions of 1), per_class.csv\nand precision-recall curves."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/voc07_faster_rcnn_r101_c4 --year 2007\n"
        "  %(prog)s runs/voc12 data.val.annotations=VOCdevkit/VOC2012/ImageSets/Main/test.txt "
        "--submission\n"
        "  %(prog)s --detections results/VOC2007/Main "
        "--annotations VOCdevkit/VOC2007/ImageSets/Main/test.txt"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN_OR_CHECKPOINT [key=value …]",
        help="a run folder (its best.pt, else last.pt), a checkpoint, or a published name. "
        f"{OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--detections",
        metavar="RESULTS",
        help="evaluate comp4_det_test_CLASS.txt files instead of a run: their folder, an archive "
        "of them or one of them; or a .json file in COCO's result format",
    )
    options.add_truth(parser, "voc", "VOC's ImageSets/Main/test.txt")
    parser.add_argument(
        "--year",
        type=int,
        choices=(2007, 2010, 2011, 2012),
        help="2007: mean of the precision at 11 recalls; 2010 to 2012: area under the curve; "
        "default: eval.metric of a run if it is VOC's, for files the year in the path of the "
        "ground truth; else the area",
    )
    parser.add_argument(
        "--overlap",
        choices=("inclusive", "exclusive"),
        help="inclusive: a match needs an overlap of at least .5, as in VOC's own code; exclusive: "
        "more than .5, as in py-faster-rcnn and Detectron2; default: eval.overlap of the run, "
        "inclusive for files",
    )
    parser.add_argument(
        "--submission",
        action="store_true",
        help="also write voc_results.tar.gz for VOC's evaluation server; the ground truth may lack "
        "annotations",
    )
    options.add_strict(parser)
    options.add_ensemble(parser)
    options.add_out(parser)
    options.add_inference(parser)


def run_eval_voc(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    run, overrides = split_runs(args, parser)
    options.check_sources(run, args, overrides, parser)
    options.prepare(imports=args.imports)
    from resdet.commands.eval_voc import eval_voc_command

    eval_voc_command(
        run=run,
        overrides=overrides,
        detections=args.detections,
        annotations=args.annotations,
        format=args.format,
        year=args.year,
        overlap=args.overlap,
        submission=args.submission,
        strict=args.strict,
        out=args.out,
        device=args.device,
        precision=args.precision,
    )
    return 0
