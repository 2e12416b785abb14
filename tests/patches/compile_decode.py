"""Compile the decode kernels, print what the assembler says: ``python -m tests.patches.compile_decode``."""

import json

import torch

from patches.kernels import decode, splits
from patches.kernels.language import padded
from tests.patches.offline import CAPABILITIES, compile_kernel

SHAPES = [
    (4, 128, "bf16", False), (4, 128, "bf16", True), (32, 128, "bf16", True), (8, 256, "fp16", True),
    (4, 128, "fp32", True), (8, 80, "fp32", True),
]  # fmt: skip
"""Query heads of a group, head_dim, dtype, and whether every option is used."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PLAIN = dict.fromkeys(("columns", "sinks", "slot", "heads", "past", "window", "residual", "blocks"), "i32")
PLAIN |= {"scale": "fp32", "softcap": "fp32"}
POINTERS = {
    "lse": "*fp32", "merged_lse": "*fp32", "parts": "*fp32", "starts": "*i64", "lasts": "*i64",
    "slots": "*i64", "key_codes": "*u8", "value_codes": "*u8", "key_grids": "*fp16", "value_grids": "*fp16",
}  # fmt: skip


def measure(kernel, capability: int, dtype: str, constants: dict, launch: dict) -> dict[str, int]:
    names = kernel.arg_names
    strides = {name: "i32" for name in names if name.endswith(("_b", "_h", "_n"))}
    types = dict.fromkeys(names, f"*{dtype}") | strides | PLAIN | POINTERS
    aligned = set(names) - PLAIN.keys() - {"starts_b", "lasts_b", "slots_b"}
    return compile_kernel(kernel, capability, types, constants, aligned, launch)


def measure_split(capability: int, group: int, dim: int, dtype: str, full: bool) -> dict[str, int]:
    options = decode.tiles(group, dim, DTYPES[dtype], full)
    launch = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    constants = options | {"SPLITS": 16, "CAPPED": full}
    if not full:
        constants |= {"sink_query": None, "starts": None, "new_key": None, "new_value": None, "slots": None}
    return measure(decode._split_kernel, capability, dtype, constants, launch)


def measure_merge(capability: int) -> dict[str, int]:
    constants = {
        "merged_lse": None,
        "GROUP": 4,
        "DIM": 128,
        "SPLITS": 64,
        "TILE_S": 64,
        "TILE_D": padded(128),
    }
    return measure(splits._merge_kernel, capability, "bf16", constants, {"num_warps": 4})


if __name__ == "__main__":
    found = {
        f"split sm_{capability} {shape}": measure_split(capability, *shape)
        for capability in CAPABILITIES
        for shape in SHAPES
    }
    found |= {f"merge sm_{capability}": measure_merge(capability) for capability in CAPABILITIES}
    print(json.dumps(found, indent=1))
