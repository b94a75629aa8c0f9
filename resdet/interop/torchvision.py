"""Published torchvision classifiers by name: `torchvision:resnet101.IMAGENET1K_V1`."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from enum import Enum
from pathlib import Path
from urllib.parse import urlparse

import torch

from resdet.errors import UserError

log = logging.getLogger("resdet")

PREFIX = "torchvision:"
# torch.hub's own rule: resnet101-63fe2227.pth carries the start of its SHA-256.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def weights_url(spec: str) -> str:
    """The address of `torchvision:NAME.WEIGHTS`.

    Raises UserError with near names for an unknown model or an unknown set of weights, and for a
    spec that has not both parts.
    """
    from torchvision import models

    name, _, weights = spec.removeprefix(PREFIX).partition(".")
    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "for example resnet50"
        raise UserError(f"{spec}: torchvision has no classifier {name!r}; {hint}")
    entries: type[Enum] = models.get_model_weights(name)
    choices = [entry for entry in entries.__members__ if entry != "DEFAULT"]
    if weights not in entries.__members__:
        near = difflib.get_close_matches(weights.upper(), choices, n=1)
        given = f"has no weights {weights!r}" if weights else "needs the name of its weights"
        hint = f"did you mean {near[0]}?" if near else f"choose of {', '.join(choices)}"
        raise UserError(f"{spec}: {name} {given}, {hint} as in {PREFIX}{name}.{choices[0]}")
    return str(entries[weights].value.url)


def fetch(spec: str) -> Path:
    """The local file of `torchvision:NAME.WEIGHTS`, downloaded once into torch.hub's folder.

    The SHA-256 prefix in the file's name is checked after a download and on the cached file.
    Raises UserError that names the file and its folder when there is no network, or when the file
    is not what its name says.
    """
    url = weights_url(spec)
    filename = Path(urlparse(url).path).name
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / filename
    match = HASH_IN_NAME.search(filename)
    prefix = match.group(1) if match else ""
    if path.is_file():
        _check_hash(path, prefix)
        return path
    log.info("downloading %s to %s", url, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix or None, progress=True)
    except RuntimeError as error:
        raise UserError(f"{spec}: the download of {url} is damaged: {error}; try again") from error
    except OSError as error:  # URLError and timeouts are OSErrors
        raise UserError(
            f"{spec}: cannot download {filename} ({error}). Without network, fetch {url} elsewhere "
            f"and put the file into {folder}, or start without weights "
            f"(model.backbone.weights=null)"
        ) from error
    return path


def _check_hash(path: Path, prefix: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(prefix):
        raise UserError(
            f"{path} is damaged or another file: its SHA-256 starts with {digest[:8]}, its name "
            f"says {prefix}; delete it and it is downloaded again"
        )
