"""How large the tiles of each kernel are: chosen so that shared memory suffices and few registers spill.

Found by compiling, not by timing: no GPU has run them yet. In bfloat16 without softcap none spills,
which ``tests/patches/test_compiled.py`` checks by compiling them for A100 and Hopper.
"""

from dataclasses import dataclass

from patches.kernels.language import padded


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


LARGE = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 3), Tile(32, 128, 8, 3), Tile(64, 32, 4, 2)),
    128: Tiles(Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2), Tile(32, 16, 4, 2)),
    256: Tiles(Tile(128, 32, 8, 2), Tile(64, 32, 8, 2), Tile(32, 32, 8, 1), Tile(32, 16, 4, 1)),
}
"""Two bytes per number and the shared memory of Hopper, by head size padded to a power of two."""

SMALL = {
    64: Tiles(Tile(128, 64, 4, 3), Tile(128, 64, 8, 2), Tile(32, 128, 8, 2), Tile(64, 32, 4, 2)),
    128: Tiles(Tile(128, 64, 8, 2), Tile(128, 32, 8, 2), Tile(32, 64, 8, 2), Tile(32, 16, 4, 2)),
    256: Tiles(Tile(64, 32, 8, 2), Tile(32, 32, 8, 2), Tile(32, 32, 8, 1), Tile(32, 16, 4, 1)),
}
"""Two bytes per number, in what every GPU since Ampere has."""

SINGLE = {
    64: Tiles(Tile(64, 32, 4, 2), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 16, 4, 2)),
    128: Tiles(Tile(32, 32, 4, 1), Tile(32, 16, 4, 1), Tile(16, 32, 4, 1), Tile(16, 16, 4, 1)),
}
"""Four bytes per number, in what every GPU since Ampere has; at 128 they spill up to 208 bytes a thread."""

LARGE_GENERATIONS = (9, 10)
LARGE_BYTES = 227 * 1024
SMALL_BYTES = 99 * 1024

INTERPRETED = Tiles(Tile(32, 16, 1, 1), Tile(16, 32, 1, 1), Tile(16, 32, 1, 1), Tile(16, 16, 1, 1))
"""On a CPU: small, so that small tensors have edges and insides, and of two shapes."""


def sink_block(sinks: int, limit: int) -> int:
    """How many sinks a program takes at once: a power of two that matrix units take, at most ``limit``."""
    return min(padded(sinks), max(16, limit))


def choose(head_dim: int, number_bytes: int, generation: int) -> Tiles:
    """The tiles for one GPU.

    Args:
        head_dim: ``D``.
        number_bytes: of a query's or key's number.
        generation: The first number of the GPU's compute capability.
    """
    table = SINGLE if number_bytes == 4 else LARGE if generation in LARGE_GENERATIONS else SMALL
    return table[max(64, padded(head_dim))]
