"""SmolLM3: some layers have no positions."""

from dataclasses import dataclass

from convert.errors import ConvertError
from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import Config, sizes
from convert.families.layouts.separate import Separate
from convert.heads import Rotary


@dataclass(frozen=True)
class SmolLM3(Family):
    """Layers without positions are named by ``no_rope_layers``, or are every fourth."""

    def rotary(self, config: Config, layer: int) -> Rotary:
        """Say which dimensions of a head rotary positions turn."""
        return super().rotary(config, layer) if _has_positions(config, layer) else Rotary(0)

    def slides(self, config: Config, layer: int) -> bool:
        """Say whether a layer slides where ``layer_types`` is absent."""
        return not _has_positions(config, layer)


def _has_positions(config: Config, layer: int) -> bool:
    # Despite its name a 1 in no_rope_layers means that the layer is rotary.
    listed, interval = config.get("no_rope_layers"), config.get("no_rope_layer_interval", 4)
    if isinstance(listed, list) and layer < len(listed):
        return bool(listed[layer])
    if listed is not None or type(interval) is not int or interval < 1:
        raise ConvertError(
            f"config.json: no_rope_layers={listed!r}, no_rope_layer_interval={interval!r} do not say whether "
            f"layer {layer} is rotary"
        )
    return bool((layer + 1) % interval)


SMOLLM3 = SmolLM3(
    model_type="smollm3",
    prefix="SmolLM3",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(2048, layers=36, heads=16, kv_heads=4),
    window=NativeWindow(switch="use_sliding_window", per_layer=True),
    windowed=True,
    note="layers without positions stay without",
)
