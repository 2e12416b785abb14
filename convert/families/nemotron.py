"""Nemotron: rotary positions in part of a head."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

NEMOTRON = Family(
    model_type="nemotron",
    prefix="Nemotron",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(6144, layers=32, heads=48) | {"initializer_range": 0.0134},
    windowed=True,
    rotary_part=0.5,
    rotary_keys=("partial_rotary_factor",),
    note="half of each head is rotary",
)
