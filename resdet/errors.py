"""The exceptions for what a user can fix, and the wording that messages share.

An error's text names the file, the item, the problem and the remedy.
"""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class UserError(ValueError):
    """A mistake in a config, a file or a command; a command prints it without a traceback."""


class NotRegistered(UserError):
    """A name that no backbone, reader, metric or branch is registered under."""


def command_line(command: str) -> str:
    """How the user runs a command such as train-det, for messages.

    In a checkout `python tools/train_det.py`; an installed wheel has no tools/, and there it is
    `python -m resdet train-det`.
    """
    tool = f"tools/{command.replace('-', '_')}.py"
    in_checkout = (Path(__file__).resolve().parent.parent / tool).is_file()
    return f"python {tool}" if in_checkout else f"python -m resdet {command}"


def did_you_mean(
    name: str, known: Iterable[str], otherwise: str, *, most: int = 3, cutoff: float = 0.6
) -> str:
    """The question "did you mean A or B?" if names of `known` resemble `name`, else `otherwise`.

    It has `most` names at most; `cutoff`, 0..1, is as in `difflib.get_close_matches`.
    """
    near = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def first_few(items: Sequence[str], limit: int = 8) -> str:
    """The first `limit` items, and how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
