"""Training and evaluation of a run: `train.py` is the loop, the other files are what it calls."""
