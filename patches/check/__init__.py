"""``python -m patches check``: every backend that runs here against a float64 reference."""
