"""The error of an image file whose name its reader does not know."""


class ImageError(Exception):
    """Problem and remedy, to which the name of the file is added."""
