"""How large the tiles of each kernel are: chosen so that nothing spills and shared memory suffices.

The rows are for A100 (164 KB of shared memory) and Hopper (228 KB) alike; ``tests/patches/
test_kernels_compile.py`` builds them for both.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """One kernel's block of queries and of keys, warps, and depth of the software pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The tiles of all kernels for one head size and width of number.

    Attributes:
        forward: ``patches.kernels.forward``.
        d_query: ``patches.kernels.backward_queries``.
        d_key: ``patches.kernels.backward_keys``, the window part.
        d_sink: the same, the sinks: ``keys`` is their number at most per program.
    """

    forward: Tile
    d_query: Tile
    d_key: Tile
    d_sink: Tile


HALF = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(64, 128, 8, 3), Tile(64, 32, 4, 2)),
    128: Tiles(Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(64, 128, 8, 2), Tile(64, 32, 4, 2)),
    256: Tiles(Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 64, 8, 2), Tile(32, 16, 4, 2)),
}
"""Two bytes per number, by head size padded to a power of two."""

SINGLE = {
    64: Tiles(Tile(64, 32, 4, 2), Tile(64, 32, 4, 2), Tile(32, 64, 4, 2), Tile(32, 16, 4, 2)),
    128: Tiles(Tile(64, 32, 8, 2), Tile(64, 32, 8, 1), Tile(32, 64, 8, 1), Tile(32, 16, 4, 1)),
    256: Tiles(Tile(32, 16, 8, 1), Tile(32, 16, 8, 1), Tile(16, 32, 8, 1), Tile(16, 16, 4, 1)),
}
"""Four bytes per number."""

INTERPRETED = Tiles(Tile(32, 16, 1, 1), Tile(16, 32, 1, 1), Tile(16, 32, 1, 1), Tile(16, 16, 1, 1))
"""On a CPU: small, so that small tensors have edges and insides, and of two shapes."""


def padded_head(head_dim: int) -> int:
    """The power of two, at least 16, that holds a head."""
    return max(16, 1 << (head_dim - 1).bit_length())


def sink_block(sinks: int, limit: int) -> int:
    """How many sinks a program takes at once: a power of two that matrix units take, at most ``limit``."""
    return min(max(16, 1 << max(sinks - 1, 0).bit_length()), max(16, limit))


def choose(head_dim: int, number_bytes: int) -> Tiles:
    """The tiles for heads of ``head_dim`` numbers of ``number_bytes`` each."""
    table = HALF if number_bytes == 2 else SINGLE
    return table[max(64, padded_head(head_dim))]
