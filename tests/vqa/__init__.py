SIZES = {"train": 8000, "test": 4000}
"""Enough questions for the statistics that are asked of them."""
