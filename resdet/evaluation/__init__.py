"""Metrics: one file a metric; COCO's is usable on files alone, without torch."""
