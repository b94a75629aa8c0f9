"""The exceptions for what a user can fix, and the wording that messages share.

An error's text names the file, the item, the problem and the remedy.
"""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # control characters: newlines, and what starts a terminal's escapes
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks reorder a line
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # separators and annotations
    "\ud800-\udfff]"  # lone surrogates: bytes of file names that are not UTF-8
)


def printable(text: str, *, keep: str = "") -> str:
    """`text` with everything that a terminal or an editor would act on shown as an escape such as
    \\x1b, \\n or \\u202e; characters in `keep` stay. The result encodes as UTF-8."""
    return _HIDDEN.sub(lambda match: match[0] if match[0] in keep else _escaped(match[0]), text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class UserError(ValueError):
    """A mistake in a config, a file or a command; a command prints it without a traceback.

    Its text is one line, in which names of files and classes are `printable`: newlines and
    terminal escapes in them are shown. A message of several lines is given line by line.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(printable, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put the key that a user would change, or the run, before the text of an error raised inside,
    unless the text starts with a key of the same section already."""
    try:
        yield
    except UserError as error:
        first, *others = error.args
        if not first.startswith(f"{key.partition('.')[0]}."):
            error.args = (f"{printable(key)}: {first}", *others)
        raise


class Reported(UserError):
    """An error that another process of the run prints."""


class Incomplete(UserError):
    """Results have been written, of too few images: others could not be read. A command exits with
    code 1, as `predict` does."""


class NotRegistered(UserError):
    """A name that no backbone, reader, metric or branch is registered under."""


def command_line(command: str) -> str:
    """How the user runs a command such as train-det, for messages.

    As this program was started: `resdet train-det`, or `python -m resdet train-det`. Otherwise in a
    checkout `python tools/train_det.py`, and without one, as an installed wheel has no tools/,
    `python -m resdet train-det`.
    """
    started = Path(sys.argv[0])
    if started.stem == "resdet":
        return f"resdet {command}"
    if started.parts[-2:] == ("resdet", "__main__.py"):
        return f"python -m resdet {command}"
    tool = f"tools/{command.replace('-', '_')}.py"
    in_checkout = (Path(__file__).resolve().parent.parent / tool).is_file()
    return f"python {tool}" if in_checkout else f"python -m resdet {command}"


def is_texts(values: object) -> bool:
    """Whether an argument of the Python API is a list of texts, as it should be, and not one."""
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    return is_list and all(isinstance(value, str) for value in values)  # type: ignore[attr-defined]


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
