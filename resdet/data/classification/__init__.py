"""Data sets of labelled images, one file per source."""
