"""Data sets of images with boxes and masks."""
