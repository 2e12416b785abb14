"""Apertus: query and key norms shared by all heads."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

APERTUS = Family(
    model_type="apertus",
    prefix="Apertus",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(4096, layers=32, heads=32),
    windowed=True,
    norm=True,
    note="query and key norms are the same for all heads and stay",
)
