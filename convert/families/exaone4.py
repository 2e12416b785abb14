"""EXAONE 4: where layers slide, only those have positions."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate
from convert.heads import Rotary


@dataclass(frozen=True)
class Exaone4(Family):
    """Without ``sliding_window`` every layer is rotary; with it, the layers that slide are."""

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn."""
        hybrid = config.get("sliding_window", 4096) is not None
        return Rotary(0) if hybrid and not self.is_sliding(config, layer) else super().rotary(config, layer)


EXAONE4 = Exaone4(
    model_type="exaone4",
    prefix="Exaone4",
    layout=Separate(),
    defaults=sizes(4096, layers=32, heads=32, kv_heads=32),
    window=NativeWindow(
        default_size=4096, period=("sliding_window_pattern", 4), per_layer=True, kinds_differ=True
    ),
    windowed=True,
    residual="post_attention_layernorm",
    norm=True,
    note="layers that do not slide have no positions",
)
