"""Images, folders and videos of a command line, and where each is drawn."""

import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdet.config.find import own_path
from resdet.errors import UserError
from resdet.files.findings import log_findings
from resdet.files.images import SUFFIXES
from resdet.files.walk import list_files
from resdet.inference.targets import Targets, is_drawing

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


@dataclass(frozen=True)
class Source:
    """One image file or one video file."""

    path: Path
    name: str
    """Its name for users: relative to the folder that was given, else the file name."""
    target: Path
    """The drawn picture; for a video the folder of its drawn frames."""
    is_video: bool


@dataclass
class Sources:
    """The inputs of a prediction."""

    files: list[Source]
    others: list[str]
    """Files of folders that are neither image nor video."""
    problems: list[str]
    """Folders that could not be listed; each was named in the log."""


def list_sources(inputs: Sequence[str | Path], out: Path) -> Sources:
    """Every image and video of `inputs` in order.

    Folders are searched with their subfolders by the rule of `list_files`; the folder `out` and
    former drawings are passed over. A file that is named is taken whatever its suffix. Targets are
    those of `Targets`: no two sources share one, and nothing but former drawings is overwritten.
    Raises UserError for an input that does not exist, and where nothing is left.
    """
    out = out.resolve()
    files: list[tuple[Path, str]] = []
    others: list[str] = []
    problems: list[str] = []
    for given in inputs:
        path = own_path(given)
        kind = _kind(path)
        if kind == "file":
            files.append((path, path.name))
        elif kind == "folder":
            listing = list_files(path)
            log_findings(listing.findings(path))
            problems += [f"{path}: {place}: {why}" for place, why in listing.unreadable]
            inside = [name for name in listing.files if not _is_own(path, name, out)]
            for name in inside:
                if _suffix(name) in SUFFIXES + VIDEO_SUFFIXES + OTHER_PICTURES:
                    files.append((path / name, name))
                else:
                    others.append(name)
        else:
            raise UserError(f"{given}: {kind}; give image files, folders of images, or videos")
    if not files:
        raise UserError(
            f"{', '.join(map(str, inputs))}: no image or video among them ({len(others)} other "
            f"files); supported: {' '.join(SUFFIXES + VIDEO_SUFFIXES)}"
        )
    targets = Targets(out, (path.resolve() for path, _ in files))
    targets.open_folders(name for _, name in files)
    sources = []
    for path, name in files:
        is_video = _suffix(name) in VIDEO_SUFFIXES
        target = targets.video(name) if is_video else targets.picture(name)
        sources.append(Source(path, name, target, is_video))
    return Sources(sources, others, problems)


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _kind(path: Path) -> str:
    """file, folder, or why it is neither."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "no such image, folder or video"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "neither a file nor a folder"


def _is_own(folder: Path, name: str, out: Path) -> bool:
    """Whether a file of an input folder is below `out` inside it, or a former drawing in `out`."""
    path = (folder / name).resolve()
    if out not in path.parents:
        return False
    return out != folder.resolve() or is_drawing(path)
