"""How long attention and decoding take, beside what a user would otherwise pick: ``python -m eval speed``."""
