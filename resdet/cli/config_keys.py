"""The command that lists the keys of a config."""

from __future__ import annotations

import argparse


def fill_config_keys(parser: argparse.ArgumentParser) -> None:
    parser.description = "Every config key with its type, default and meaning, from the schema."
    parser.add_argument(
        "--task",
        choices=("detection", "classification"),
        default="detection",
        help="whose keys; default %(default)s",
    )
    parser.add_argument(
        "prefix", nargs="?", default="", help="only the keys that begin so, such as model.rpn"
    )


def run_config_keys(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from resdet.config.classification import ClassificationConfig
    from resdet.config.describe import explain_keys
    from resdet.config.detection import DetectionConfig

    print(
        explain_keys(
            args.prefix, DetectionConfig if args.task == "detection" else ClassificationConfig
        )
    )
    return 0
