"""Helium: Llama with neighbouring dimensions as rotary pairs."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

HELIUM = Family(
    model_type="helium",
    prefix="Helium",
    layout=Separate(qkv_bias=("attention_bias", False)),
    defaults=sizes(2560, layers=24, heads=20, kv_heads=20, head_dim=128),
    windowed=True,
    interleaved=True,
)
