"""A trained checkpoint of a million parameters, how it was made, and the demo on it."""
