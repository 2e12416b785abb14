"""Compile the sink kernels, print what the assembler says: ``python -m tests.patches.compile_sinks``."""

import json

from patches.kernels import sinks
from tests.patches.offline import CAPABILITIES, compile_kernel

DIMS = (64, 128, 256)
TILES = {"_merge": sinks.merge_tile, "_spread": sinks.spread_tile}
SINGLE = ("d_key_ptr", "d_value_ptr", "d_logits_ptr")


def measure(kernel, capability: int, dim: int, dtype: str) -> dict[str, int]:
    names, tile = kernel.arg_names, TILES[kernel.fn.__name__](dim)
    known = {
        "HEADS": 32, "GROUP": 4, "DIM": dim, "RUN": sinks.RUN, "HAS_PART": True, "HAS_LOGITS": True,
        "BLOCK_T": tile["BLOCK_T"], "BLOCK_S": 16, "BLOCK_D": dim,
    }  # fmt: skip
    constants = {name: value for name, value in known.items() if name in names}
    pointers = {name: f"*{dtype}" for name in names if name.endswith("_ptr")}
    single = {name: "*fp32" for name in pointers if "lse" in name or name in SINGLE}
    types = dict.fromkeys(names, "i32") | pointers | single | {"scale": "fp32"}
    aligned = {name for name in names if name.endswith(("_ptr", "_b", "_h", "_t", "_s"))}
    options = {name: tile[name] for name in ("num_warps", "num_stages")}
    return compile_kernel(kernel, capability, types, constants, aligned, options)


if __name__ == "__main__":
    found = {
        f"{kernel.fn.__name__} sm_{capability} d={dim}": measure(kernel, capability, dim, "bf16")
        for kernel in (sinks._merge, sinks._spread)
        for capability in CAPABILITIES
        for dim in DIMS
    }
    print(json.dumps(found, indent=1))
