"""Qwen3-MoE: query and key norms shared by all heads, one window for every layer."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    prefix="Qwen3Moe",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(2048, layers=24, heads=32, kv_heads=4),
    window=NativeWindow(default_size=4096, switch="use_sliding_window"),
    windowed=True,
    norm=True,
    note="query and key norms are the same for all heads and stay",
)
