"""GLM-4 as ``glm`` and ``glm4``: neighbouring dimensions of half a head are rotary pairs."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

LAYOUT = Separate(qkv_bias=("attention_bias", True))
SIZES = sizes(4096, layers=40, heads=32, kv_heads=2, head_dim=128)

GLM = Family(
    model_type="glm",
    prefix="Glm",
    layout=LAYOUT,
    defaults=SIZES,
    windowed=True,
    rotary_part=0.5,
    rotary_keys=("partial_rotary_factor",),
    interleaved=True,
    note="half of each head is rotary",
)

GLM4 = Family(
    model_type="glm4",
    prefix="Glm4",
    layout=LAYOUT,
    defaults=SIZES,
    windowed=True,
    residual="post_self_attn_layernorm",
    rotary_part=0.5,
    rotary_keys=("partial_rotary_factor",),
    interleaved=True,
    note="half of each head is rotary",
)
