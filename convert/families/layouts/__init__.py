"""The physical layouts of attention tensors. To add one: a subclass of ``Layout`` in a file of its own."""
