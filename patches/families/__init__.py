"""The windowed classes of every family, one file each."""
