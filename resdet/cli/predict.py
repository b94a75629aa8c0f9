"""The command that draws and stores the predictions of a model."""

import argparse

from resdet.cli import options
from resdet.cli.options import at_least_one, fraction, split_inputs


def fill_predict(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT IMAGE_OR_FOLDER_OR_VIDEO … [key=value …] --out DIR\n"
        "           [--ensemble RUN …] [options]\n"
        "       %(prog)s RUN_OR_CHECKPOINT --proposals FILE.npz [--set train|val] [key=value …]"
    )
    parser.description = (
        "Detect objects in images and videos, or classify them. DIR receives the drawn images. A "
        "detector also writes\ndetections.json (COCO's result format, original category ids) and "
        "images.json (id, file_name, size, frame);\na classifier writes predictions.json (file and "
        "five best classes). With --proposals, a per-class RPN\n(task localization) writes its "
        "boxes for data.train or data.val of its run to one file, which data.proposals of an\n"
        "R-CNN reads."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei datasets/nuclei/images --out runs/drawn\n"
        "  %(prog)s runs/a images test.flip=true test.scales=[640,800,960] --out runs/drawn\n"
        "  %(prog)s runs/a images --ensemble runs/b runs/c --out runs/drawn\n"
        "  %(prog)s runs/a slide.tif --tile 1024 --out runs/drawn\n"
        "  %(prog)s runs/a street.mp4 --track --format csv,jsonl --out runs/drawn\n"
        "  %(prog)s runs/rpn --proposals runs/rpn/train.npz test.views=dense"
    )
    _add_inputs(parser)
    parser.add_argument("--out", metavar="DIR", help="folder for the results")
    _add_proposals(parser)
    parser.add_argument(
        "--score-thresh",
        metavar="S",
        type=fraction,
        help="drop detections or classes with this score (0 to 1) or less; default: .5 for a "
        "detector; a classifier keeps five classes",
    )
    parser.add_argument(
        "--ids-from",
        metavar="ANNOTATIONS",
        help="take the image ids of detections.json from annotations in any format that training "
        "reads, by file name, so that evaluation accepts it; images without an id there are named "
        "and have no records",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=at_least_one,
        default=1,
        help="images, or with --tile tiles, per forward pass; default %(default)s",
    )
    _add_results(parser)
    parser.add_argument(
        "--max-pixels",
        metavar="N",
        type=at_least_one,
        help="do not read images of more pixels; default: data.max_pixels of the model's config",
    )
    options.add_tiles(parser)
    options.add_inference(parser)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """The models, and what they see."""
    parser.add_argument(
        "model",
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder, a checkpoint, or a published name such as "
        "detectron2:COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x",
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="IMAGE_OR_FOLDER_OR_VIDEO",
        help="image files, folders of images, videos, quoted patterns ('photos/**/*.jpg'), http(s) "
        "addresses of images and videos, one live source (webcam:0, rtsp://…, live:http://…), or - "
        "for a list of these on standard input; key=value among them overrides the config of a "
        "detector or localizer (test.flip=true), unless it is the name of a file",
    )
    options.add_members(parser)


def _add_results(parser: argparse.ArgumentParser) -> None:
    """What is written."""
    parser.add_argument(
        "--format",
        metavar="NAME[,NAME]",
        type=lambda text: tuple(name.strip() for name in text.split(",")),
        help="formats of the results: coco (detections.json), csv, jsonl (one line per image or "
        "frame), labelme and yolo (annotations to correct); default: coco",
    )
    parser.add_argument(
        "--track",
        action="store_true",
        help="follow objects through the frames of a video, or the images of a folder: the results "
        "have track_id, drawings the ids and one colour per id",
    )
    parser.add_argument(
        "--draw",
        choices=("all", "video", "none"),
        default="all",
        help="all: images, each frame of a video, and the video; video: images, and of videos the "
        "video alone; none: results without drawings; default: %(default)s",
    )


def _add_proposals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--proposals",
        metavar="FILE.npz",
        help="write the test.num_proposals best boxes of a per-class RPN for the true class of "
        "each image of its run's data; takes no images and no --out",
    )
    parser.add_argument(
        "--set",
        choices=("train", "val"),
        help="with --proposals: the images of data.train or data.val; default: train",
    )


def run_predict(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    files, overrides = split_inputs(args.inputs)
    overrides += options.split_members(args)
    if args.proposals is not None:
        return _run_proposals(args, parser, files, overrides)
    if args.set is not None:
        parser.error("--set needs --proposals FILE.npz")
    if not files:
        parser.error("give an IMAGE_OR_FOLDER_OR_VIDEO after RUN_OR_CHECKPOINT")
    if args.out is None:
        parser.error("give --out DIR, the folder for the results")
    options.prepare(imports=args.imports)
    from resdet.commands.predict import predict_command
    from resdet.inference.predicting import Options

    return predict_command(
        run=args.model,
        inputs=files,
        ensemble=args.ensemble,
        overrides=overrides,
        out=args.out,
        ids_from=args.ids_from,
        device=args.device,
        precision=args.precision,
        options=Options(
            score_thresh=args.score_thresh,
            batch_size=args.batch_size,
            max_pixels=args.max_pixels,
            tracks=args.track,
            formats=args.format,
            draws=args.draw,
            tile=args.tile,
            overlap=args.overlap,
        ),
    )


def _run_proposals(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    files: list[str],
    overrides: list[str],
) -> int:
    given = {
        "images": files,
        "--out": args.out,
        "--score-thresh": args.score_thresh is not None,
        "--ids-from": args.ids_from,
        "--ensemble": args.ensemble,
        "--max-pixels": args.max_pixels is not None,
        "--tile": args.tile is not None,
        "--overlap": args.overlap is not None,
        "--format": args.format is not None,
        "--track": args.track,
        "--draw": args.draw != "all",
    }
    for name in (name for name, value in given.items() if value):
        parser.error(
            f"--proposals and {name} exclude each other: proposals are made for the data of the "
            "run's config, which data.train.images=… and data.train.annotations=… change"
        )
    options.prepare(imports=args.imports)
    from resdet.commands.propose import propose_command

    return propose_command(
        run=args.model,
        out=args.proposals,
        name=args.set or "train",
        overrides=overrides,
        device=args.device,
        batch_size=args.batch_size,
        precision=args.precision,
    )
