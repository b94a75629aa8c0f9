"""The command that times training beside other programs."""

from __future__ import annotations

import argparse

from resdet.cli import options
from resdet.cli.options import at_least_one


def fill_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s cls --root DIR [--network NAME] [--rounds N] [--steps N] [--out DIR]"
    parser.description = (
        "Time resdet beside other programs on the same work, in turns within one run, and print "
        "medians and ratios.\ncls: a training step on CIFAR-10, beside plain PyTorch with "
        "torchvision's transforms and a DataLoader."
    )
    parser.epilog = "Example:\n  %(prog)s cls --root datasets/cifar10 --out runs/benchmark"
    parser.add_argument("work", choices=("cls",), help="what to time")
    parser.add_argument(
        "--root", metavar="DIR", default="datasets/cifar10", help="CIFAR-10; default %(default)s"
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        default="cifar_resnet20",
        help="a network for 32×32 images; default %(default)s",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=at_least_one,
        default=128,
        help="images a step; default %(default)s",
    )
    parser.add_argument(
        "--rounds",
        metavar="N",
        type=at_least_one,
        default=5,
        help="turns of each program; default %(default)s",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=at_least_one,
        default=20,
        help="steps a turn; default %(default)s",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for benchmark_cifar.json")
    options.add_device(parser)


def run_benchmark(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    options.prepare(is_alone=True)
    from resdet.benchmark.cifar import benchmark_cifar

    benchmark_cifar(
        args.root,
        network=args.network,
        batch_size=args.batch_size,
        rounds=args.rounds,
        steps=args.steps,
        device=args.device,
        out=args.out,
    )
    return 0
