"""Arcee's AFM: Llama with another activation."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

ARCEE = Family(
    model_type="arcee",
    prefix="Arcee",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(2560, layers=32, heads=32),
    windowed=True,
)
