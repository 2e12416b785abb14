"""Mixtral: Mistral with experts, one window for every layer."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

MIXTRAL = Family(
    model_type="mixtral",
    prefix="Mixtral",
    layout=Separate(),
    defaults=sizes(4096, layers=32, heads=32, kv_heads=8),
    window=NativeWindow(),
    windowed=True,
    note="one window for every layer",
)
