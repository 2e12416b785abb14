"""Compile the fused kernels, and print what the assembler says.

Usage: ``python -m tests.patches.compile_fused CAPABILITY HEAD_DIM DTYPE [softcap] [turned]``.
"""

import json
import re
import sys
from collections.abc import Iterator

from patches.kernels import backward_keys, backward_queries, forward
from patches.kernels.language import padded
from patches.kernels.tiles import choose
from tests.patches.offline import compile_kernel

FLOATS = {"scale", "factor", "cap"}
SINGLE_POINTERS = {"lse", "delta", "sink_logits"}
POINTERS = {
    *("query", "sink_query", "key", "value", "output", "grad"),
    *("d_query", "d_sink_query", "d_key", "d_value"),
}
ALIGNED = re.compile(r"(_batch|_head|_row|dim)$")


def kernels(dim: int, dtype: str, generation: int, options: list[str]) -> Iterator[tuple]:
    """Name, function, constants and tile of each, as the launcher chooses them."""
    tiles = choose(dim, 4 if dtype == "fp32" else 2, generation)
    head = padded(dim)
    common = {"HEAD": head, "PADDED": head != dim, "CAPPED": "softcap" in options, "PRECISION": "tf32x3"}
    turned = {"TURNED": "turned" in options}
    tile = tiles.forward
    constants = {"BLOCK_Q": tile.queries, "BLOCK_K": tile.keys, "BLOCK_S": 16, "LOGITS": True}
    yield "forward", forward.attend_kernel, common | turned | constants, tile
    tile = tiles.d_query
    constants = {"BLOCK_Q": tile.queries, "BLOCK_K": tile.keys, "BLOCK_S": 16}
    yield "d_query", backward_queries.query_gradient_kernel, common | turned | constants, tile
    tile = tiles.d_key
    constants = {"BLOCK_Q": tile.queries, "BLOCK_K": tile.keys}
    yield "d_key", backward_keys.key_gradient_kernel, common | constants, tile
    tile = tiles.d_sink
    yield (
        "d_sink",
        backward_keys.sink_gradient_kernel,
        common | {"BLOCK_Q": tile.queries, "BLOCK_S": 16},
        tile,
    )


def measure(name: str, kernel, capability: int, dtype: str, constants: dict, tile) -> dict[str, int]:
    names = kernel.arg_names
    partial = {"d_key", "d_value"} if name == "d_sink" else set()
    pointers = dict.fromkeys(POINTERS, f"*{dtype}") | dict.fromkeys(SINGLE_POINTERS | partial, "*fp32")
    types = dict.fromkeys(names, "i32") | dict.fromkeys(FLOATS, "fp32") | pointers
    aligned = {argument for argument in names if argument in pointers or ALIGNED.search(argument)}
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return compile_kernel(kernel, capability, types, constants, aligned, options)


def main(capability: int, dim: int, dtype: str, *options: str) -> dict[str, dict[str, int]]:
    return {
        name: measure(name, kernel, capability, dtype, constants, tile)
        for name, kernel, constants, tile in kernels(dim, dtype, capability // 10, list(options))
    }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]), indent=1))
