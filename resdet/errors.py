"""The one exception for what a user can mend: its text names the file, the item and the remedy."""


class UserError(ValueError):
    """A mistake in a config, a file or a command; a command prints it without a traceback."""
