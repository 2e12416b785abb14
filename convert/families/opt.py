"""OPT: learned positions."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

OPT = Family(
    model_type="opt",
    prefix="OPT",
    layout=Separate(output="out_proj", qkv_bias=("enable_bias", True), output_bias=("enable_bias", True)),
    defaults=sizes(768, layers=12, heads=12) | {"max_position_embeddings": 2048},
    aliases={"initializer_range": "init_std"},
    grouped=False,
    layers="decoder.layers",
    rotary_part=None,
)
