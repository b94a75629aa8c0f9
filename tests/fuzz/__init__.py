"""Broken inputs by the thousand: each must end in a result or one clear error.

A case is a target and a number, and is the same on every machine: `python -m tests.fuzz TARGET
NUMBER` runs it again and keeps its files. `pytest -m fuzz` runs 50,000 of them, and continues where
it was stopped.
"""
