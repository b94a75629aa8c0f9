"""The folder of files that can be made again: downloads, and what took long to read."""

import hashlib
import os
from pathlib import Path

from resdet.files.writing import write_bytes

DIGEST = 32
"""Bytes of the SHA-256 in front of a stored result."""


def cache_folder() -> Path:
    """Where such files are kept: RESDET_CACHE, else ~/.cache/resdet (XDG_CACHE_HOME)."""
    given = os.environ.get("RESDET_CACHE")
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return (Path(given) if given else home / "resdet").expanduser()


def load_result(kind: str, key: str) -> bytes | None:
    """What `store_result` kept; None without it, or where it is damaged."""
    try:
        content = (cache_folder() / kind / key).read_bytes()
    except OSError:
        return None
    digest, result = content[:DIGEST], content[DIGEST:]
    return result if hashlib.sha256(result).digest() == digest else None


def store_result(kind: str, key: str, result: bytes) -> None:
    """Keeps a result, in place of an earlier one of that key; a folder that can't be written is
    none's fault."""
    path = cache_folder() / kind / key
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, hashlib.sha256(result).digest() + result)
    except OSError:
        return
