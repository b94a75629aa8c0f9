"""What `resdet serve` runs: a model behind HTTP until a signal comes."""

import ipaddress
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resdet.hardware import choose_device
from resdet.inference.loading import load_models
from resdet.models.predict import Predictor, precision_of
from resdet.models.region_classifier import RegionClassifier, needs_proposals
from resdet.serving.server import address_of, bind, serve
from resdet.serving.service import Service
from resdet.serving.settings import Settings

log = logging.getLogger("resdet")


def serve_command(
    *,
    run: str | Path,
    settings: Settings,
    host: str,
    port: int,
    ensemble: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    device: str | None = None,
    precision: str | None = None,
) -> int:
    """Answer requests at `host` and `port` with predictions of `run`; returns the exit code.

    The server listens before the model is loaded, and answers /health with 503 until then. On
    SIGTERM or SIGINT it finishes the requests in progress, and the code is 0. Detectors in
    `ensemble` predict together with that of `run`; `overrides` go on top of every detector's
    config. `precision` as in `resdet.load`.
    """
    chosen_device = choose_device(device, 0)

    def load() -> Predictor[Any]:
        model = load_models([run, *ensemble], overrides=overrides)
        if isinstance(model, RegionClassifier):
            raise needs_proposals()
        model.place(chosen_device)
        model.precision = precision
        chosen = precision_of(model)
        log.info("%s: precision %s (%s)", run, chosen.name, chosen.reason)
        return model

    with bind(host, port) as listening:
        log.info("listening at %s, loading the model", address_of(listening))
        if not _is_local(host):
            log.warning(
                "--host %s: everyone who reaches this address can use the server, which has no "
                "passwords",
                host,
            )
        serve(Service(settings, _name_of(run)), load, listening, host)
    return 0


def _name_of(run: str | Path) -> str:
    """How the page calls a model: the last part of its path, without folders of this machine."""
    path = Path(run)
    return (
        path.parent.name
        if path.name in ("best.pt", "last.pt") and path.parent.name
        else (path.name or str(run))
    )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
