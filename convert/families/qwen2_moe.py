"""Qwen2-MoE: biases on q, k and v, a window that only some attention backends apply."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate


@dataclass(frozen=True)
class Qwen2Moe(Family):
    """Its window, where it is on, is in every other layer up to ``max_window_layers``."""

    def slides(self, config: Config, layer: int) -> bool:
        """Say whether a layer slides where ``layer_types`` is absent."""
        return layer % 2 == 0 and bool(layer < config.get("max_window_layers", 28))


QWEN2_MOE = Qwen2Moe(
    model_type="qwen2_moe",
    prefix="Qwen2Moe",
    layout=Separate(qkv_bias=("qkv_bias", True)),
    defaults=sizes(2048, layers=24, heads=16, kv_heads=16),
    window=NativeWindow(
        default_size=4096,
        switch="use_sliding_window",
        per_layer=True,
        broken="transformers does not give qwen2_moe's window to FlashAttention, which would attend densely",
    ),
    windowed=True,
    note="key and value biases are merged like their weights",
)
