"""Phi-3 and Phi-4: queries, keys and values in one tensor, one window for every layer."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.concatenated import Concatenated

PHI3 = Family(
    model_type="phi3",
    prefix="Phi3",
    layout=Concatenated(name="qkv_proj"),
    defaults=sizes(3072, layers=32, heads=32),
    window=NativeWindow(),
    windowed=True,
    rotary_keys=("partial_rotary_factor",),
    note="queries, keys and values are one tensor",
)
