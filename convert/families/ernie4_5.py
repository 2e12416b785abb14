"""ERNIE 4.5: neighbouring dimensions are rotary pairs."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

ERNIE4_5 = Family(
    model_type="ernie4_5",
    prefix="Ernie4_5",
    layout=Separate(qkv_bias=("use_bias", False), output_bias=("use_bias", False)),
    defaults=sizes(1024, layers=18, heads=16, kv_heads=2, head_dim=128),
    windowed=True,
    interleaved=True,
)
