"""torchvision's classifiers and detectors, read and written."""
