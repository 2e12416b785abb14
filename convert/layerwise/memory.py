"""Memory that a layer has freed goes back to the system before the next one needs as much."""

import ctypes

M_MMAP_THRESHOLD = -3
LARGE = 2**20


def return_large_blocks() -> None:
    """Let the C library map blocks of a MiB and more one by one, and unmap each when it is freed.

    By itself glibc raises that limit to the largest block freed so far and keeps the rest: tensors of a fixed
    size then hold a little more memory with every layer. The setting is the process's; where there is no such
    call (macOS, Windows, musl), nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGE)
