"""``python -m eval cache``: what every way of keeping a cache costs, in bytes, in quality and in time."""
