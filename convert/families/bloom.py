"""BLOOM: each head's query, key and value side by side, a slope per head instead of rotary positions."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.interleaved import Interleaved

BLOOM = Family(
    model_type="bloom",
    prefix="Bloom",
    layout=Interleaved(output="dense", qkv_bias=True, output_bias=True),
    defaults=sizes(64, layers=2, heads=8),
    aliases={"hidden_size": "n_embed", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    grouped=False,
    base="transformer",
    layers="h",
    attention="self_attention",
    rotary_part=None,
    alibi=True,
)
