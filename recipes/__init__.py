"""Convert -> measure -> uptrain -> measure: the only room that knows the others."""
