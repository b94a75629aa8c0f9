"""Exceptions for what a user can fix: the text names the file, the item and the remedy."""

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
