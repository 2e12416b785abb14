"""Compile every fused kernel for a GPU that need not be here, and print what the compiler says, as JSON.

Usage: ``python -m tests.patches.compile_fused CAPABILITY HEAD_DIM DTYPE [softcap] [turned]``, without
TRITON_INTERPRET.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from patches.kernels import backward_keys, backward_queries, forward
from patches.kernels.language import padded
from patches.kernels.tiles import Tile, choose

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


def source(name: str, function, constants: dict, dtype: str) -> ASTSource:
    """The kernel with the types and alignments of an ordinary call."""
    signature, attributes = {}, {}
    for place, argument in enumerate(function.arg_names):
        partial = name == "d_sink" and argument in ("d_key", "d_value")
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in POINTERS | SINGLE_POINTERS:
            signature[argument] = "*fp32" if partial or argument in SINGLE_POINTERS else f"*{dtype}"
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "fp32" if argument in FLOATS else "i32"
            if ALIGNED.search(argument):
                attributes[(place,)] = [["tt.divisibility", 16]]
    values = {(function.arg_names.index(key),): value for key, value in constants.items()}
    return ASTSource(function, signature, constexprs=values, attrs=attributes)


def measure(built, tile: Tile) -> dict[str, int | str]:
    """Registers, spilled bytes, shared memory and wide matrix instructions of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout)}
    return {
        "tile": str(tile),
        "registers": found["REG"],
        "spilled_bytes": found["STACK"] + found["LOCAL"],
        "shared_bytes": built.metadata.shared,
        "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
    }


def main(capability: int, dim: int, dtype: str, *options: str) -> dict[str, dict]:
    report = {}
    for name, function, constants, tile in kernels(dim, dtype, capability // 10, list(options)):
        built = triton.compile(
            source(name, function, constants, dtype),
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": tile.warps, "num_stages": tile.stages},
        )
        report[name] = measure(built, tile)
    return report


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]), indent=1))
