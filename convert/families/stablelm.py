"""StableLM: rotary positions in a quarter of a head."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

STABLELM = Family(
    model_type="stablelm",
    prefix="StableLm",
    layout=Separate(qkv_bias=("use_qkv_bias", False)),
    defaults=sizes(2560, layers=32, heads=32, kv_heads=32),
    refuses={"qk_layernorm": "each head has a norm in a tensor of its own"},
    windowed=True,
    rotary_part=0.25,
    rotary_keys=("partial_rotary_factor",),
    note="a quarter of each head is rotary; refused with qk_layernorm",
)
