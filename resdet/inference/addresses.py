"""What an input that is not a path stands for: a webcam, a live stream, or an image or video of a
server."""

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from resdet.errors import UserError
from resdet.files.download import SCHEMES, content_type, is_address, without_password
from resdet.files.images import SUFFIXES

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".ts", ".3gp", ".mts", ".m2ts", ".ogv", ".vob", ".asf"),
)
OTHER_PICTURES = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".j2k", ".jpx", ".psd", ".tga", ".dds", ".blp"),
    *(".pcx", ".sgi", ".hdr", ".exr", ".svg", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
    *(".orf", ".rw2", ".raf"),
)
"""Suffixes of pictures of which many can't be read: in a folder they are inputs too, so that each
is either predicted or named as a failure."""
LIVE_SUFFIXES = (".m3u8", ".mjpg", ".mjpeg", ".sdp")
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "srt", "tcp")
WEBCAM, LIVE = "webcam:", "live:"
"""Beginnings of inputs that are not files; `./webcam:0` is a file of that name."""
HOW = (
    "give http:// or https:// for images and videos, rtsp:// and such for streams, webcam:0, or a "
    "path"
)
Kind = Literal["image", "video", "live"]


def is_remote(given: str | Path) -> bool:
    """Whether an input is a webcam, a stream or an address, and not a path."""
    return is_address(given) or (isinstance(given, str) and given.startswith((WEBCAM, LIVE)))


def kind_of(given: str) -> Kind | None:
    """What an input for which `is_remote` holds is; None where only the server can tell.

    UserError for what cannot be read.
    """
    if given.startswith(WEBCAM):
        if re.fullmatch(r"[0-9]{1,3}", given.removeprefix(WEBCAM)) is None:
            raise UserError(f"{given}: is not a webcam; give its number: webcam:0, webcam:1, …")
        return "live"
    address = given.removeprefix(LIVE)
    shown = without_password(address)
    try:
        parts = urlsplit(address)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise UserError(f"{shown}: is not an address ({error}); correct it") from None
    if not has_host or parts.scheme not in SCHEMES + LIVE_SCHEMES:
        if parts.scheme == "file":
            raise UserError(f"{shown}: addresses of files are not read; give the path alone")
        raise UserError(f"{shown}: is not an address that can be read; {HOW}")
    suffix = Path(parts.path).suffix.lower()
    if parts.scheme in LIVE_SCHEMES or given.startswith(LIVE) or suffix in LIVE_SUFFIXES:
        return "live"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in SUFFIXES + OTHER_PICTURES else None


def ask_kind(address: str) -> Kind:
    """What an http or https address is by the type that its server states; UserError for others."""
    stated = content_type(address)
    kind, _, more = stated.partition("/")
    if stated.startswith("multipart/") or "mpegurl" in more:
        return "live"
    if kind == "video":
        return "video"
    if kind == "image" or stated in ("", "application/octet-stream", "binary/octet-stream"):
        return "image"
    what = "a web page" if more == "html" else stated
    raise UserError(
        f"{without_password(address)}: is {what}, and neither image nor video; give the address of "
        "the file itself"
    )


def name_of(given: str) -> str:
    """The file name at an address, or the name of its host; webcam-0 of a webcam."""
    if given.startswith(WEBCAM):
        return given.replace(":", "-")
    parts = urlsplit(given.removeprefix(LIVE))
    name = unquote(parts.path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name if name.strip(".") else (parts.hostname or "stream").replace(".", "-")
