"""Compile the sink kernels for a GPU that need not be there, and print their registers.

A script, because Triton's interpreter, once asked for, cannot be left again.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from patches.kernels import sinks

DIMS = (64, 128, 256)
TILES = {"_merge": sinks.merge_tile, "_spread": sinks.spread_tile}


def compile_kernel(kernel, capability: int, dim: int, dtype: str) -> dict[str, int]:
    tile = TILES[kernel.fn.__name__](dim)
    options = {
        "HEADS": 32, "GROUP": 4, "DIM": dim, "RUN": sinks.RUN, "HAS_PART": True, "HAS_LOGITS": True,
        "BLOCK_T": tile["BLOCK_T"], "BLOCK_S": 16, "BLOCK_D": dim,
    }  # fmt: skip
    constants = {name: value for name, value in options.items() if name in kernel.arg_names}
    signature = {}
    for name in kernel.arg_names:
        wide = "lse" in name or name in ("d_key_ptr", "d_value_ptr", "d_logits_ptr")
        pointer = "*fp32" if wide else f"*{dtype}"
        plain = "fp32" if name == "scale" else "i32"
        signature[name] = "constexpr" if name in constants else pointer if name.endswith("_ptr") else plain
    # Strides and addresses are multiples of 16, as they are for every model.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name.endswith(("_ptr", "_b", "_h", "_t", "_s"))
    }
    built = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={name: tile[name] for name in ("num_warps", "num_stages")},
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(built.asm["ptx"])
        arch = {80: "sm_80", 90: "sm_90a"}[capability]
        tool = get_ptxas(capability) if get_ptxas.__code__.co_argcount else get_ptxas()
        said = subprocess.run(
            [getattr(tool, "path", tool), "-v", f"--gpu-name={arch}", str(path), "-o", str(path) + ".o"],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    numbers = {word: int(re.search(rf"(\d+) {what}", said)[1]) for word, what in FIELDS.items()}
    return numbers | {"shared": built.metadata.shared}


FIELDS = {"spilled": "bytes spill stores", "registers": "registers"}

if __name__ == "__main__":
    found = {
        f"{kernel.fn.__name__} sm_{capability} d={dim}": compile_kernel(kernel, capability, dim, "bf16")
        for kernel in (sinks._merge, sinks._spread)
        for capability in (80, 90)
        for dim in DIMS
    }
    json.dump(found, sys.stdout, indent=1)
