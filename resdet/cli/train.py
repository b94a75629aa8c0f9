"""The commands that train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, split_overrides
from resdet.errors import command_line

if TYPE_CHECKING:
    from resdet.config.loading import AnyConfig, Schema

AUTO: Literal["auto"] = "auto"
DEFAULT_CLASSIFIER = "configs/imagenet_resnet50.yaml"
"""What train-cls trains without a config."""


def fill_train_det(parser: argparse.ArgumentParser) -> None:
    what = "Train a detector (or a localizer: task localization)"
    _fill_train(parser, what, "train-det", "configs/demo_nuclei.yaml", "CONFIG")


def fill_train_cls(parser: argparse.ArgumentParser) -> None:
    example = "configs/cifar10_resnet20.yaml"
    _fill_train(parser, "Train a classifier", "train-cls", example, "[CONFIG]")


def _fill_train(
    parser: argparse.ArgumentParser, what: str, command: str, example: str, config: str
) -> None:
    parser.usage = (
        f"%(prog)s {config} [key=value …] [options]\n       %(prog)s --resume --run-dir DIR"
    )
    parser.description = (
        f"{what} from one YAML file. The run folder receives config.yaml, log.jsonl, TensorBoard "
        "events,\nlast.pt, best.pt, eval.json and plots/."
    )
    door = command_line(command).removeprefix("python ")
    door = f"-m {door}" if door.startswith("resdet ") else door
    more = "Those of localization:  task=localization --help-config\n" if config == "CONFIG" else ""
    parser.epilog = (
        f"Several processes:  torchrun --nproc-per-node 8 {door} CONFIG …\n"
        "Every config key, or those of one section:  --help-config, --help-config optim\n"
        f"{more}"
        "Examples:\n"
        f"  %(prog)s {example} train.epochs=5 --run-dir runs/short\n"
        "  %(prog)s --resume --run-dir runs/short"
    )
    default = "" if config == "CONFIG" else f"; default {DEFAULT_CLASSIFIER}"
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG [key=value …]",
        help=f"a YAML file, or the name of an included config ({Path(example).stem})"
        f"{default}; optional with --resume. {OVERRIDES_HELP}",
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="folder of the run; default: runs/<name of CONFIG>. An existing folder is refused "
        "without --resume",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint of the run folder; keys that differ from the run's "
        "are refused. --resume auto starts the run if there is none yet",
    )
    options.add_device(parser)
    options.add_imports(parser)
    _add_modes(parser)
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop if anything in the data would have to be dropped or repaired",
    )
    parser.add_argument(
        "--help-config",
        metavar="PREFIX",
        nargs="?",
        const="",
        help="print every config key, or those that start with PREFIX (such as optim), with "
        "default, type and meaning, and stop; of the task of CONFIG, if one is given",
    )


def _add_modes(parser: argparse.ArgumentParser) -> None:
    """What else than one run there is to do."""
    parser.add_argument(
        "--check",
        action="store_true",
        help="resolve the config, check the data, draw one batch, estimate the memory, and stop",
    )
    parser.add_argument(
        "--lr-find",
        action="store_true",
        help="suggest a learning rate: 100 updates at growing rates, of which a plot and their "
        "losses are kept",
    )
    parser.add_argument(
        "--seeds",
        metavar="N",
        type=options.at_least_one,
        help="train N runs with seeds from train.seed on, in seed_0, seed_1 … of the run folder, "
        "and write mean and deviation of every metric to seeds.json",
    )


def run_train_det(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from resdet.config.detection import DetectionConfig
    from resdet.config.localization import LocalizationConfig

    return _run_train(args, parser, (DetectionConfig, LocalizationConfig), None)


def run_train_cls(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from resdet.config.classification import ClassificationConfig

    return _run_train(args, parser, ClassificationConfig, DEFAULT_CLASSIFIER)


def _run_train(
    args: argparse.Namespace,
    parser: argparse.ArgumentParser,
    schema: Schema,
    default: str | None,
) -> int:
    if args.help_config is not None:
        return _help_config(args, schema)
    from resdet.config.loading import load_any_config, load_config

    resume = _resume(args)
    name, overrides = split_overrides(args.arguments, parser, "CONFIG")
    stored = None if args.run_dir is None else Path(args.run_dir) / "config.yaml"
    has_begun = stored is not None and any(
        path.is_file() for path in (stored, stored.with_name("seeds.json"))
    )
    if name is None and not (resume is True or (resume and has_begun)):
        name = default
    if name is None and not resume:
        parser.error("give a CONFIG, or --resume --run-dir DIR to resume a run")
    if name is None and args.run_dir is None:
        parser.error("--resume without a CONFIG needs --run-dir DIR")
    for alone in ("check", "lr_find"):
        for other in ("lr_find", "seeds", *(["resume"] if alone == "lr_find" else [])):
            if alone != other and getattr(args, alone) and getattr(args, other):
                names = f"--{alone} and --{other}".replace("_", "-")
                parser.error(f"{names} cannot be given together")
    config: AnyConfig | None = None
    imports, is_alone = list(args.imports), False
    if name is not None:
        # before torch is imported: a mistyped key is reported at once
        config, overrides = load_config(name, overrides, schema=schema), []
        imports += config.imports
        is_alone = _has_no_loader(config)
    elif stored is not None and stored.is_file():
        is_alone = _has_no_loader(load_any_config(stored))
    folder = None if name is None else Path(name).parent
    options.prepare(imports=imports, folder=folder, is_alone=is_alone)
    from resdet.engine.run_folder import choose_folder
    from resdet.engine.start import train

    train(
        config,
        overrides,
        run_dir=choose_folder(name, args.run_dir),
        resume=resume,
        device=args.device,
        check=args.check,
        strict=args.strict,
        schema=schema,
        lr_find=args.lr_find,
        seeds=args.seeds,
    )
    return 0


def _resume(args: argparse.Namespace) -> bool | Literal["auto"]:
    """What `train` gets. "auto" is taken out of `args.arguments`: as a value of the option, which
    has none otherwise, `--resume CONFIG` would be one too."""
    if not (args.resume and AUTO in args.arguments):
        return bool(args.resume)
    args.arguments.remove(AUTO)
    return AUTO


def _help_config(args: argparse.Namespace, schema: Schema) -> int:
    """Print the keys of the CONFIG's task, of the `task=` that is given, or of the command's."""
    from resdet.config.describe import explain_keys
    from resdet.config.loading import load_config

    schemas = schema if isinstance(schema, tuple) else (schema,)
    names = [text for text in args.arguments if "=" not in text]
    asked = {text.removeprefix("task=") for text in args.arguments if text.startswith("task=")}
    chosen = next((s for s in schemas if s.model_fields["task"].default in asked), schemas[0])
    if names:
        chosen = type(load_config(names[0], schema=schemas))
    print(explain_keys(args.help_config, chosen))
    return 0


def _has_no_loader(config: AnyConfig) -> bool:
    """Whether its images stay on the device, as CIFAR's do."""
    return getattr(config.data, "format", None) in ("cifar10", "cifar100")
