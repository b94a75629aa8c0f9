"""Metrics: one file a metric, each usable on files alone, without torch."""
