"""Gemma, Gemma 2 and the text models of Gemma 3."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

LAYOUT = Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False))
REFUSES = {"use_bidirectional_attention": "attention looks both ways"}

GEMMA = Family(
    model_type="gemma",
    prefix="Gemma",
    layout=LAYOUT,
    defaults=sizes(3072, layers=28, heads=16, kv_heads=16, head_dim=256),
    refuses=REFUSES,
    windowed=True,
)

GEMMA2 = Family(
    model_type="gemma2",
    prefix="Gemma2",
    layout=LAYOUT,
    defaults=sizes(2304, layers=26, heads=8, kv_heads=4, head_dim=256),
    refuses=REFUSES,
    window=NativeWindow(default_size=4096, period=("", 2), per_layer=True),
    windowed=True,
    residual="post_attention_layernorm",
    note="every other layer slides already",
)

GEMMA3_TEXT = Family(
    model_type="gemma3_text",
    prefix="Gemma3",
    layout=LAYOUT,
    defaults=sizes(2304, layers=26, heads=8, kv_heads=4, head_dim=256),
    refuses=REFUSES,
    window=NativeWindow(
        default_size=4096, period=("sliding_window_pattern", 6), per_layer=True, kinds_differ=True
    ),
    windowed=True,
    residual="post_attention_layernorm",
    norm=True,
    note="text models; each kind of layer has its own positions",
)
