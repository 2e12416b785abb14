"""Models of transformers as they are, with a compressed cache."""
