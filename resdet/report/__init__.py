"""The page that explains a run: what its numbers are (data.py) and how they are drawn (page.py)."""
