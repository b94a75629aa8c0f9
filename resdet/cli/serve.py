"""The command that answers HTTP requests with predictions."""

import argparse

from resdet.cli import options
from resdet.cli.options import at_least_one, fraction, split_inputs
from resdet.dependencies import import_extra
from resdet.serving.settings import Settings

PACKAGES = ("fastapi", "uvicorn", "python_multipart")
"""Of the extra `serve`; asked for before anything that takes time."""


def fill_serve(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s RUN_OR_CHECKPOINT [key=value …] [--port N] [--host ADDRESS]\n"
        "           [--ensemble RUN …] [options]"
    )
    parser.description = (
        "Answer HTTP requests with predictions: POST an image to /predict for JSON or a drawn PNG. "
        "The page at / takes\ndropped images; /health, /metrics and /openapi.json are for programs."
        " Needs pip install 'resdet[serve]'."
    )
    parser.epilog = (
        "Examples:\n"
        "  %(prog)s runs/demo_nuclei\n"
        "  curl -F image=@photo.jpg 'http://127.0.0.1:8000/predict?masks=rle'\n"
        "  curl -F image=@photo.jpg 'http://127.0.0.1:8000/predict?draw' -o drawn.png"
    )
    parser.add_argument(
        "model",
        metavar="RUN_OR_CHECKPOINT",
        help="a run folder, a checkpoint, an exported model, or a published name",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="overrides of the config of a detector or localizer, such as test.flip=true",
    )
    options.add_members(parser)
    parser.add_argument(
        "--score-thresh",
        metavar="S",
        type=fraction,
        help="where a request gives no score_thresh: leave out what scores at or below (0 to 1); "
        "default: .5 for a detector; a classifier gives five classes",
    )
    options.add_tiles(parser)
    _add_address(parser)
    _add_limits(parser)
    options.add_inference(parser)


def _add_address(parser: argparse.ArgumentParser) -> None:
    """Where it listens, and who may ask."""
    parser.add_argument(
        "--port",
        metavar="N",
        type=_port,
        default=8000,
        help="TCP port, 0 for a free one; default %(default)s",
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 is every address of this machine, for everyone who "
        "reaches it; default %(default)s",
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a DNS name under which the server is reached, such as that of a proxy; may be given "
        "several times; IP addresses, localhost and the machine's name need no entry",
    )
    parser.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="another site whose pages may use the server (CORS), such as https://example.org; may "
        "be given several times",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Limits of a request, and of all together."""
    limits = {
        "--max-batch": (
            at_least_one,
            "N",
            Settings.max_batch,
            "images or tiles per forward pass",
        ),
        "--max-wait": (
            _positive,
            "MS",
            Settings.max_wait_ms,
            "milliseconds that an image waits for others while the network is idle",
        ),
        "--max-requests": (
            at_least_one,
            "N",
            Settings.max_requests,
            "images that are read, wait or are computed at a time; more get status 503",
        ),
        "--timeout": (_positive, "S", Settings.timeout_s, "seconds per request"),
        "--max-upload": (_positive, "MB", Settings.max_upload_mb, "megabytes per request"),
        "--max-pixels": (at_least_one, "N", Settings.max_pixels, "pixels per image"),
    }
    for name, (kind, unit, default, words) in limits.items():
        parser.add_argument(
            name, metavar=unit, type=kind, default=default, help=f"{words}; default %(default)s"
        )


def _port(text: str) -> int:
    """A whole number up to 65535."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 0 to 65535 is expected")
    return int(text)


def _positive(text: str) -> float:
    """A number above 0, at most a million."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: a number above 0 is expected")
    return value


def run_serve(args: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    others, overrides = split_inputs(args.overrides)
    overrides += options.split_members(args)
    if others:
        parser.error(f"{others[0]}: is not key=value; further detectors go after --ensemble")
    settings = Settings(
        score_thresh=args.score_thresh,
        tile=args.tile,
        overlap=args.overlap,
        max_batch=args.max_batch,
        max_wait_ms=args.max_wait,
        max_requests=args.max_requests,
        timeout_s=args.timeout,
        max_upload_mb=args.max_upload,
        max_pixels=args.max_pixels,
        allow_hosts=tuple(args.allow_host),
        allow_origins=tuple(args.allow_origin),
    )
    for package in PACKAGES:
        import_extra(package, "serve", "the command serve")
    options.prepare(imports=args.imports)
    from resdet.commands.serve import serve_command

    return serve_command(
        run=args.model,
        settings=settings,
        host=args.host,
        port=args.port,
        ensemble=args.ensemble,
        overrides=overrides,
        device=args.device,
        precision=args.precision,
    )
