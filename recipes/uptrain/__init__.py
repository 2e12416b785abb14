"""A short training of a converted checkpoint with its source as teacher."""
