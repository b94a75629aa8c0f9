"""The command that compares resdet's speed with other toolkits'."""

from __future__ import annotations

import argparse
from typing import Any

from resdet.cli import options
from resdet.cli.options import at_least_one, fraction

_DETECTORS = {"against", "device", "steps", "weights", "size", "batch_size", "images", "tiles"}
_DETECTORS |= {"score_thresh", "no_compile"}
USES = {
    "infer": _DETECTORS,
    "train": _DETECTORS | {"objects"},
    "data": {"against", "steps", "images", "annotations", "objects", "root", "photos"},
    "eval": {"annotations", "against", "count"},
    "predict": {"device", "weights", "batch_size", "images", "score_thresh"},
    "cls": {"device", "steps", "batch_size", "network", "cifar", "no_compile"},
    "cost": {"device", "steps", "batch_size", "size"},
    "gpu": {"device", "steps", "parts", "cifar", "root", "weights", "images", "tiles"},
}
"""Options of each work, in addition to --rounds and --out."""
COCO, ANNOTATIONS = "datasets/coco/val2017", "datasets/coco/annotations/instances_val2017.json"


def fill_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s {infer,train,data,eval,predict,cls,cost,gpu} [options]"
    parser.description = (
        "Compare resdet with other programs on the same work, in alternating turns of one run:\n"
        "medians, ratios to the first program, images/s, peak memory, share of what is possible.\n"
        "  infer    Mask R-CNN R50-FPN, from a resized image to pasted masks\n"
        "  train    a training step of Mask R-CNN R50-FPN\n"
        "  data     loading: detection images with --annotations, class folders with --root\n"
        "  eval     COCO evaluation, from two files to the 12 numbers\n"
        "  predict  the command `predict` on the folder --images, compared with its network alone\n"
        "  cls      a training step of an ImageNet network from memory, or of CIFAR (--cifar)\n"
        "  cost     Mask R-CNN by image size, objects, classes, batch and processes\n"
        "  gpu      all timings on a GPU, compared with their aims"
    )
    parser.epilog = (
        "Examples:\n  %(prog)s infer --weights runs/my_run --images datasets/coco/val2017\n"
        "  %(prog)s eval --annotations datasets/coco/annotations/instances_val2017.json\n"
        "  %(prog)s cls --cifar datasets/cifar10 --out runs/benchmark"
    )
    parser.add_argument("work", choices=tuple(USES), help="what to time")
    parser.add_argument(
        "--against",
        metavar="NAMES",
        type=_names,
        help="programs to compare with, separated by commas (torchvision, detectron2; infer on a "
        "CPU: onnxruntime and openvino, for exports; data: albumentations too; eval: pycocotools, "
        "faster-coco-eval, ultrafast-pycocotools, hotcoco); default: all that are installed",
    )
    parser.add_argument("--rounds", metavar="N", type=at_least_one, help="turns of each program")
    parser.add_argument("--steps", metavar="N", type=at_least_one, help="steps per turn")
    parser.add_argument("--out", metavar="DIR", help="folder for benchmark_*.json and the charts")
    options.add_device(parser)
    _fill_detectors(parser)
    _fill_data(parser)
    group = parser.add_argument_group("cls, gpu")
    group.add_argument("--cifar", metavar="DIR", help="a folder with CIFAR-10 to train on")
    group.add_argument(
        "--network", metavar="NAME", help="default: resnet50, and cifar_resnet20 on CIFAR-10"
    )
    group.add_argument(
        "--parts",
        metavar="NAMES",
        type=_names,
        help="gpu: any of train, train101, infer, cls, cifar, input; default: all",
    )


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _fill_detectors(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("infer, train, predict, cost")
    group.add_argument(
        "--weights",
        metavar="W",
        help="a Mask R-CNN R50-FPN (predict: any detector): a run, a file or a published name; "
        "default: random weights",
    )
    group.add_argument(
        "--size",
        metavar="N",
        nargs=2,
        type=at_least_one,
        help="height and width of the images; default 800 1216",
    )
    group.add_argument(
        "--batch-size",
        metavar="N",
        type=at_least_one,
        help="images per step; default: 1 for infer and predict, 2 for train and cost, 32 for cls, "
        "128 on CIFAR",
    )
    group.add_argument(
        "--objects",
        metavar="N",
        type=at_least_one,
        help="objects per image; default: 8 for train, 20 for data",
    )
    group.add_argument(
        "--tiles",
        metavar="N",
        type=at_least_one,
        help="each image is made of N×N of those in --images; default 1",
    )
    group.add_argument(
        "--score-thresh",
        metavar="T",
        type=fraction,
        help="default: .05, or with random weights a threshold that 1,000 scores per image pass; "
        "for predict: .5, or one that leaves 10 detections",
    )
    group.add_argument("--no-compile", action="store_true", help="eager models only (also cls)")


def _fill_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data, eval, predict")
    group.add_argument(
        "--images",
        metavar="DIR",
        help=f"the annotated images; default {COCO} (infer: noise)",
    )
    group.add_argument("--annotations", metavar="FILE", help=f"COCO file; default {ANNOTATIONS}")
    group.add_argument("--root", metavar="DIR", help="data, gpu: a folder of classes to load")
    group.add_argument(
        "--photos", metavar="DIR", help="data, with --root: images to time at 500 pixels"
    )
    group.add_argument(
        "--count", metavar="N", type=at_least_one, help="eval: images to use; default 5000"
    )


def run_benchmark(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    _refuse_others(args, parser)
    options.prepare(is_alone=True)
    {
        "infer": _run_detectors,
        "train": _run_detectors,
        "data": _run_data,
        "eval": _run_eval,
        "predict": _run_predict,
        "cls": _run_cls,
        "cost": _run_cost,
        "gpu": _run_gpu,
    }[args.work](args)
    return 0


def _refuse_others(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse an option that the work does not use."""
    given = {name for name, value in vars(args).items() if value not in (None, False)}
    extra = given - {"work", "rounds", "out"} - USES[args.work]
    if extra:
        names = ", ".join("--" + name.replace("_", "-") for name in sorted(extra))
        parser.error(f"{args.work} does not accept {names}")
    if args.photos is not None and args.root is None:
        parser.error("--photos goes with --root, a folder of classes")


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What the user gave of these; the functions have the defaults."""
    found = {name: getattr(args, name) for name in names}
    if found.get("size") is not None:
        found["size"] = tuple(found["size"])
    return {name: value for name, value in found.items() if value is not None}


def _run_detectors(args: argparse.Namespace) -> None:
    from tools.benchmark.detection import benchmark_detector

    given = _given(args, *USES[args.work] - {"no_compile"}, "rounds", "out")
    benchmark_detector(args.work, compiled=not args.no_compile, **given)


def _run_data(args: argparse.Namespace) -> None:
    from tools.benchmark.data import benchmark_cls_data, benchmark_detection_data

    given = _given(args, "rounds", "steps", "out")
    if args.root is None or args.images is not None:
        images, annotations = args.images or COCO, args.annotations or ANNOTATIONS
        chosen = _given(args, "against", "objects")
        benchmark_detection_data(images, annotations, **given, **chosen)
    if args.root is not None:
        benchmark_cls_data(args.root, photos=args.photos, **given)


def _run_eval(args: argparse.Namespace) -> None:
    from tools.benchmark.evaluation import benchmark_eval

    given = _given(args, "against", "rounds", "out")
    if args.count is not None:
        given["images"] = args.count
    benchmark_eval(args.annotations or ANNOTATIONS, **given)


def _run_predict(args: argparse.Namespace) -> None:
    from tools.benchmark.predicting import benchmark_predict

    given = _given(args, *USES["predict"] - {"images"}, "rounds", "out")
    benchmark_predict(args.images or COCO, **given)


def _run_cls(args: argparse.Namespace) -> None:
    given = _given(args, *USES["cls"] - {"no_compile", "cifar"}, "rounds", "out")
    given["compiled"] = not args.no_compile
    if args.cifar is not None:
        from tools.benchmark.cifar import benchmark_cifar

        benchmark_cifar(args.cifar, **given)
        return
    from tools.benchmark.classification import benchmark_network

    benchmark_network(**given)


def _run_cost(args: argparse.Namespace) -> None:
    from tools.benchmark.cost import measure_cost

    measure_cost(**_given(args, *USES["cost"], "rounds", "out"))


def _run_gpu(args: argparse.Namespace) -> None:
    from tools.benchmark.gpu import benchmark_gpu

    benchmark_gpu(**_given(args, *USES["gpu"], "rounds", "out"))
