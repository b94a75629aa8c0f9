"""The parts of a detector; each takes values, factory.py puts them together."""
