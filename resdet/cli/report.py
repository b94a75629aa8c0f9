"""The command that explains runs on one page."""

import argparse

from resdet.cli import options
from resdet.cli.options import OVERRIDES_HELP, split_arguments


def fill_report(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s RUN [RUN …] [key=value …] [--out PAGE.html] [options]"
    parser.description = (
        "Write one self-contained HTML page on a run: its config, data and curves, the metrics in "
        "detail, kinds of errors,\nand pictures of the worst images, mistakes and likely label "
        "errors. Several runs are compared side by side,\nwith the significance of their "
        "differences. The page is made from the predictions of the run's last or best\nevaluation; "
        "a run that has none stored is evaluated first."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei\n"
        "  %(prog)s runs/a runs/b runs/c --out runs/abc.html\n"
        "  %(prog)s runs/a data.val.images=/elsewhere/images"
    )
    parser.add_argument(
        "arguments",
        nargs="+",
        metavar="RUN [RUN …] [key=value …]",
        help="run folders, the first one is what the others are compared with. "
        f"{OVERRIDES_HELP}; here for data that has moved",
    )
    parser.add_argument(
        "--out",
        metavar="PAGE.html",
        help="default: report.html in the run's folder, for several runs runs/report_<names>.html",
    )
    options.add_inference(parser)


def run_report(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    runs, overrides = split_arguments(args.arguments)
    if not runs:
        parser.error("give a run folder")
    options.prepare(imports=args.imports)
    from resdet.commands.report import report_command

    report_command(
        runs=runs,
        overrides=overrides,
        out=args.out,
        device=args.device,
        precision=args.precision,
    )
    return 0
