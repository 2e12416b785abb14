"""Compile the decode kernels for a GPU that need not be there, and print their registers.

A script, because Triton's interpreter, once asked for, cannot be left again.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from patches.kernels import decode
from patches.kernels.language import padded

SHAPES = [
    (4, 128, "bf16", False), (4, 128, "bf16", True), (32, 128, "bf16", True), (8, 256, "fp16", True),
    (4, 128, "fp32", True), (8, 80, "fp32", True),
]  # fmt: skip
"""Query heads of a group, head_dim, dtype, and whether every option is used."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FIELDS = {"spilled": "bytes spill stores", "registers": "registers"}
PLAIN = dict.fromkeys(("columns", "sinks", "heads", "past", "window", "residual", "blocks"), "i32")
PLAIN |= {"scale": "fp32", "softcap": "fp32"}
POINTERS = {
    "lse": "*fp32", "merged_lse": "*fp32", "parts": "*fp32", "starts": "*i64", "lasts": "*i64",
    "key_codes": "*u8", "value_codes": "*u8", "key_grids": "*fp16", "value_grids": "*fp16",
}  # fmt: skip


def compile_kernel(kernel, capability: int, dtype: str, constants: dict, warps: int) -> dict[str, int]:
    signature = {}
    for name in kernel.arg_names:
        pointer = POINTERS.get(name, f"*{dtype}")
        kind = "i32" if name.endswith(("_b", "_h", "_n")) else PLAIN.get(name, pointer)
        signature[name] = "constexpr" if name in constants else kind
    # Strides and addresses are multiples of 16, as they are for every model.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name not in constants and name not in PLAIN and name not in ("starts_b", "lasts_b")
    }
    built = triton.compile(
        ASTSource(kernel, signature, constexprs=constants, attrs=aligned),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
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


def compile_split(capability: int, group: int, dim: int, dtype: str, full: bool) -> dict[str, int]:
    options = decode.tiles(group, dim, DTYPES[dtype])
    warps = options.pop("num_warps")
    constants = options | {"SPLITS": 16, "CAPPED": full}
    if not full:
        constants |= {"sink_query": None, "starts": None}
    return compile_kernel(decode._split_kernel, capability, dtype, constants, warps)


def compile_merge(capability: int) -> dict[str, int]:
    constants = {
        "merged_lse": None,
        "GROUP": 4,
        "DIM": 128,
        "SPLITS": 64,
        "TILE_S": 64,
        "TILE_D": padded(128),
    }
    return compile_kernel(decode._merge_kernel, capability, "bf16", constants, 4)


if __name__ == "__main__":
    found = {
        f"split sm_{capability} {shape}": compile_split(capability, *shape)
        for capability in (80, 90)
        for shape in SHAPES
    }
    found |= {f"merge sm_{capability}": compile_merge(capability) for capability in (80, 90)}
    json.dump(found, sys.stdout, indent=1)
