"""Granite, dense and with experts: attention is scaled before it is added to the residual stream."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

LAYOUT = Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False))

GRANITE = Family(
    model_type="granite",
    prefix="Granite",
    layout=LAYOUT,
    defaults=sizes(4096, layers=32, heads=32),
    windowed=True,
    residual_multiplier="residual_multiplier",
)

GRANITEMOE = Family(
    model_type="granitemoe",
    prefix="GraniteMoe",
    layout=LAYOUT,
    defaults=sizes(4096, layers=32, heads=32),
    windowed=True,
    residual_multiplier="residual_multiplier",
)
