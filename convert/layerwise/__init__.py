"""Conversions that need a whole layer at once: each is computed and kept until weights are written."""
