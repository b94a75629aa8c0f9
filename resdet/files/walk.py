"""The one rule for folders of files: what is below a folder, through links, each folder once."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resdet.files.findings import Finding, log_findings

SKIPPED = frozenset(
    ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)
"""Folders that archives, network storages and file systems add, with copies or previews."""


@dataclass
class Listing:
    """What is below a folder. All are paths below it, with `/`, sorted."""

    files: list[str] = field(default_factory=list)
    """Everything that is no folder, dead links and devices included: whoever reads them says so."""
    repeated: list[str] = field(default_factory=list)
    """Links that lead to a folder which is listed elsewhere or contains the link."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Folders that can't be listed, and the reason."""

    def findings(self, folder: str | Path) -> list[Finding]:
        """What was left out below `folder`, which was listed."""
        repeated = "leads to a folder that contains it or that is listed elsewhere"
        remedy = "each folder is read once; remove the link"
        found = [Finding(str(folder), place, repeated, remedy) for place in self.repeated]
        remedy = "it is left out; change its permissions or move it away"
        return found + [
            Finding(str(folder), place, f"can't be listed ({why})", remedy)
            for place, why in self.unreadable
        ]


def is_listed(name: str) -> bool:
    """Whether a file or folder of that name counts: hidden ones, `._*` among them, do not."""
    return name[0] != "." and name not in SKIPPED


def walk(folder: str | Path, suffixes: Sequence[str] | None = None) -> Iterator[Path]:
    """The files below a folder in sorted order, by the rule of `list_files`; what that leaves out
    is logged.

    Args:
        suffixes: those to keep, in lower case, such as `.jpg`; None keeps all.
    """
    folder, kept = Path(folder), None if suffixes is None else tuple(suffixes)
    listing = list_files(folder)
    log_findings(listing.findings(folder))
    for name in listing.files:
        if kept is None or name.lower().endswith(kept):
            yield folder / name


def list_files(folder: str | Path, inside: Sequence[str] | None = None) -> Listing:
    """The files below a folder.

    Links to files and folders are followed. Each real folder is listed once, under its own path
    where it has one below `folder`, else under the first link to it; a link to a folder that
    contains it is not followed. Hidden files and folders and those of `SKIPPED` are left out.

    Args:
        inside: names of subfolders to look in; None looks at everything.
    """
    top = os.fspath(folder)
    real = os.path.realpath(top)
    listing, seen = Listing(), {real}
    wanted = None if inside is None else frozenset(inside)
    links: list[tuple[str, str, str]] = []
    _list_real(listing, seen, links, "", top, real, wanted)
    # Folders under their own path came first; links may lead to further links.
    while links:
        round_of_links, links = sorted(links), []
        for place, path, parent in round_of_links:
            target = os.path.realpath(path)
            if target in seen or _contains(target, parent) or _contains(target, real):
                listing.repeated.append(place)
            else:
                seen.add(target)
                _list_real(listing, seen, links, f"{place}/", path, target, None)
    for names in (listing.files, listing.repeated, listing.unreadable):
        names.sort()
    return listing


def _list_real(
    listing: Listing,
    seen: set[str],
    links: list[tuple[str, str, str]],
    place: str,
    path: str,
    real: str,
    wanted: frozenset[str] | None,
) -> None:
    """Adds a folder and those in it, and to `links` each link to a folder: its place below the top
    folder, its path and the real folder that holds it.

    Args:
        place: the folder below the top one, with a `/` at its end.
        path, real: where it is, as it was reached and without links.
        wanted: names in it to look at; None takes all.
    """
    folders, files = [(place, path, real)], listing.files
    while folders:
        place, path, real = folders.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if name[0] == "." or (wanted is not None and name not in wanted):
                        continue
                    try:
                        is_folder = entry.is_dir()
                    except OSError:  # a link that leads to itself
                        is_folder = False
                    if not is_folder:
                        files.append(place + name)
                    elif name in SKIPPED:
                        continue
                    elif entry.is_symlink():
                        links.append((place + name, entry.path, real))
                    elif (own := f"{real.rstrip(os.sep)}{os.sep}{name}") not in seen:
                        seen.add(own)
                        folders.append((f"{place}{name}/", entry.path, own))
        except OSError as error:
            listing.unreadable.append((place or ".", str(error.strerror)))
        wanted = None


def _contains(folder: str, other: str) -> bool:
    """Whether a real folder is `other` or above it."""
    return other == folder or other.startswith(folder.rstrip(os.sep) + os.sep)
