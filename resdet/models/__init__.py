"""The parts of detectors and classifiers; each takes values, factory/ puts them together."""
