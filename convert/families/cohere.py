"""Cohere's Command R (``cohere``) and Command R7B (``cohere2``): neighbouring dimensions are rotary pairs."""

from dataclasses import dataclass

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate
from convert.heads import Rotary

BIAS = ("attention_bias", False)

COHERE = Family(
    model_type="cohere",
    prefix="Cohere",
    layout=Separate(
        qkv_bias=BIAS,
        output_bias=BIAS,
        norms=("q_norm", "k_norm"),
        has_norms=("use_qk_norm", False),
        norm_rows=True,
    ),
    defaults=sizes(8192, layers=40, heads=64),
    windowed=True,
    interleaved=True,
    norm=("use_qk_norm", False),
    note="with use_qk_norm each head has norm weights, merged too",
)


@dataclass(frozen=True)
class Cohere2(Family):
    """Layers that do not slide have no positions."""

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn."""
        return super().rotary(config, layer) if self.is_sliding(config, layer) else Rotary(0)


COHERE2 = Cohere2(
    model_type="cohere2",
    prefix="Cohere2",
    layout=Separate(qkv_bias=BIAS, output_bias=BIAS),
    defaults=sizes(8192, layers=40, heads=64),
    window=NativeWindow(
        default_size=4096, period=("sliding_window_pattern", 4), per_layer=True, kinds_differ=True
    ),
    windowed=True,
    interleaved=True,
    note="layers that do not slide have no positions",
)
