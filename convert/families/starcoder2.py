"""StarCoder2: biases on all projections, one window for every layer."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

STARCODER2 = Family(
    model_type="starcoder2",
    prefix="Starcoder2",
    layout=Separate(qkv_bias=("use_bias", True), output_bias=("use_bias", True)),
    defaults=sizes(3072, layers=30, heads=24, kv_heads=2) | {"initializer_range": 0.018042},
    window=NativeWindow(),
    windowed=True,
    note="one window for every layer",
)
