"""Detectron2's detectors and backbones: their names, configs and published files."""
