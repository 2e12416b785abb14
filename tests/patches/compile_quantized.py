"""Compile the decode kernel for codes: ``python -m tests.patches.compile_quantized`` prints what came out."""

import json

from patches.cache.codes import Coding
from patches.kernels import quantized_decode, splits
from patches.kernels.language import padded
from tests.patches.compile_decode import DTYPES, measure
from tests.patches.offline import CAPABILITIES

SHAPES = [
    (4, 128, "bf16", False), (4, 128, "bf16", True), (32, 128, "bf16", True), (8, 256, "fp16", True),
    (4, 128, "fp32", True),
]  # fmt: skip
"""Query heads of a group, head_dim, dtype, and whether every option is used."""


def measure_split(capability: int, bits: int, group: int, dim: int, dtype: str, full: bool) -> dict[str, int]:
    width = Coding(bits, 64, 64).width(dim)
    options = quantized_decode.tiles(group, dim, width, 64, DTYPES[dtype])
    launch = {"num_warps": options.pop("num_warps")}
    constants = options | {"CHANNELS": 64, "SPLITS": 16, "CAPPED": full}
    if not full:
        constants |= {"sink_query": None, "starts": None}
    return measure(quantized_decode._split_kernel, capability, dtype, constants, launch)


def measure_merge(capability: int) -> dict[str, int]:
    constants = {"sink_logits": None, "GROUP": 4, "DIM": 128, "SPLITS": 64, "TILE_S": 64}
    return measure(
        splits._merge_kernel, capability, "fp32", constants | {"TILE_D": padded(128)}, {"num_warps": 4}
    )


if __name__ == "__main__":
    found = {
        f"split sm_{capability} int{bits} {shape}": measure_split(capability, bits, *shape)
        for capability in CAPABILITIES
        for bits in (8, 4)
        for shape in SHAPES
    }
    found |= {f"merge sm_{capability}": measure_merge(capability) for capability in CAPABILITIES}
    print(json.dumps(found))
