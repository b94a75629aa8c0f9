"""Data sets, their transforms, and the loader; one folder per task."""
