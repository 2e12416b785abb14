"""Which layers keep full attention: measured on the source, layer by layer, instead of guessed by position."""
