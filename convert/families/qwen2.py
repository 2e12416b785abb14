"""Qwen2 and Qwen2.5: biases on q, k and v, a window per layer behind a switch."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.layouts.separate import Separate

QWEN2 = Family(
    model_type="qwen2",
    prefix="Qwen2",
    layout=Separate(qkv_bias=True),
    defaults={
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    window=NativeWindow(
        default_size=4096,
        switch="use_sliding_window",
        first_layer=("max_window_layers", 28),
        per_layer=True,
    ),
    windowed=True,
    note="key and value biases are merged like their weights",
)
