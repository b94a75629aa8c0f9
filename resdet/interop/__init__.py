"""Weights of other toolkits, and resdet's own checkpoints: reading, fitting and converting them."""
