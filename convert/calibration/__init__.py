"""Reading a text through a checkpoint one layer at a time, to merge each layer by what really flows in it."""
