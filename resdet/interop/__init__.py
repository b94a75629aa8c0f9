"""Weights from elsewhere, one origin a file."""
