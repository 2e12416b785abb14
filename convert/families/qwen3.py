"""Qwen3: query and key norms act on one head at a time and all heads share them, so merging keeps them."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.layouts.separate import Separate

QWEN3 = Family(
    model_type="qwen3",
    prefix="Qwen3",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "head_dim": 128,
    },
    window=NativeWindow(
        default_size=4096,
        switch="use_sliding_window",
        first_layer=("max_window_layers", 28),
        per_layer=True,
    ),
    windowed=True,
    norm=True,
    note="query and key norms are the same for all heads and stay",
)
