"""How large images may be, and the error of a file whose name its reader does not know."""

MAX_PIXELS = 180_000_000
"""Pixels of an image above which it is refused, unless another limit is given."""


class ImageError(Exception):
    """Problem and remedy, to which the name of the file is added."""


class TooLarge(ImageError):
    """More pixels than are allowed."""
