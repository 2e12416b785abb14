"""Phi-1, Phi-1.5 and Phi-2: rotary positions in part of a head, biases everywhere."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

PHI = Family(
    model_type="phi",
    prefix="Phi",
    layout=Separate(output="dense", qkv_bias=True, output_bias=True),
    defaults=sizes(2048, layers=24, heads=32),
    windowed=True,
    rotary_part=0.5,
    rotary_keys=("partial_rotary_factor",),
    norm=("qk_layernorm", False),
    note="half of each head is rotary",
)
