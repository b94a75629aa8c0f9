"""torchvision's classifiers and detectors: their names and published files."""
