"""Readers of annotation files, one file per format."""
