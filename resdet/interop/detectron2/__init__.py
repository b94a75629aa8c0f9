"""Detectron2's detectors and ImageNet backbones, read and written."""
