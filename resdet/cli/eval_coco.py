"""The command that evaluates detectors and files of detections."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, kinds, max_dets, split_runs


def fill_eval_coco(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT [key=value …] [options]\n"
        "       %(prog)s RUN RUN … --ensemble [key=value …] [options]\n"
        "       %(prog)s --detections R.json --annotations GT.json [options]"
    )
    parser.description = (
        "Evaluate a model on its data.val, or a file of detections, by COCO's or LVIS's metric. "
        "Print one table per kind and\none per class, and write eval.json (fractions of 1, TIDE's "
        "errors, calibration), per_class.csv and precision-recall\ncurves. If the images have no "
        "annotations, as in COCO's test-dev files, write detections.json, without metrics."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei\n"
        "  %(prog)s runs/mine/best.pt data.val.annotations=other.json --out runs/mine/other\n"
        "  %(prog)s runs/mine test.flip=true test.scales=[640,800,960] --out runs/mine/views\n"
        "  %(prog)s runs/a runs/b runs/c --ensemble --out runs/together\n"
        "  %(prog)s --detections R.json --annotations GT.json --kinds bbox"
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RUN_OR_CHECKPOINT [key=value …]",
        help="a run folder (its best.pt, else last.pt), a checkpoint, or a published name such as "
        "torchvision:maskrcnn_resnet50_fpn_v2; averaged weights are used if there are any. "
        f"{OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--detections",
        metavar="R.json",
        help="evaluate detections in COCO's result format instead of a run",
    )
    parser.add_argument(
        "--annotations", metavar="GT.json", help="ground truth for --detections, a COCO file"
    )
    _add_metric(parser)
    options.add_ensemble(parser)
    options.add_out(parser)
    options.add_inference(parser)


def _add_metric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kinds",
        metavar="bbox,segm",
        type=kinds,
        help="boxes, masks or both; default: whatever the model or the detections have",
    )
    parser.add_argument(
        "--max-dets",
        metavar="1,10,100",
        type=max_dets,
        help="three limits on detections per image: one for each AR, the last one also for AP; "
        "default: eval.max_dets of the run, 1,10,100 for a file",
    )
    parser.add_argument(
        "--backend",
        choices=("fast", "hotcoco", "pycocotools"),
        help="fast is hotcoco; pycocotools is the slow reference with the same numbers, without "
        "TIDE and calibration; default: eval.backend of the run, fast for a file",
    )
    parser.add_argument(
        "--lvis",
        action="store_true",
        help="evaluate by LVIS's rules: only classes that an image is annotated for, 300 "
        "detections per image; needs LVIS annotations",
    )
    parser.add_argument(
        "--submission",
        metavar="NAME",
        help="also write submission_<kind>/detections_<set>_NAME_results.zip for COCO's evaluation "
        "server; <set> is that of the annotation file, such as test-dev2015",
    )
    options.add_strict(parser)


def run_eval_coco(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    run, overrides = split_runs(args, parser)
    options.check_sources(run, args, overrides, parser)
    options.prepare(imports=args.imports)
    from resdet.commands.eval_coco import eval_coco_command

    eval_coco_command(
        run=run,
        overrides=overrides,
        detections=args.detections,
        annotations=args.annotations,
        kinds=args.kinds,
        max_dets=args.max_dets,
        backend=args.backend,
        lvis=args.lvis,
        submission=args.submission,
        strict=args.strict,
        out=args.out,
        device=args.device,
        precision=args.precision,
    )
    return 0
