"""Images with one object class each: crops for training, views for testing."""
