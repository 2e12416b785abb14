"""Ministral: Mistral with a window per layer."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

MINISTRAL = Family(
    model_type="ministral",
    prefix="Ministral",
    layout=Separate(),
    defaults=sizes(4096, layers=32, heads=32, kv_heads=8),
    window=NativeWindow(default_size=4096, per_layer=True),
    windowed=True,
)
