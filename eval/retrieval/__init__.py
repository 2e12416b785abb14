"""Documents with a needle: the words, and documents of an exact length."""
