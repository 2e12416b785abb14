"""What a model remembers: a layer per kind of attention, and the cache that holds them."""
