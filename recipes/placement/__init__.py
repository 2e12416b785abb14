"""Which layers keep full attention: measured on the source, layer by layer, not guessed by position."""
