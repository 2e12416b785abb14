"""OLMo, OLMo 2, OLMo 3 and OLMoE."""

from convert.families.family import Family
from convert.families.forms import NativeWindow
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

BIAS = ("attention_bias", False)
NORMED = Separate(qkv_bias=BIAS, output_bias=BIAS, norms=("q_norm", "k_norm"))
SIZES = sizes(4096, layers=32, heads=32)

OLMO = Family(
    model_type="olmo",
    prefix="Olmo",
    layout=Separate(qkv_bias=BIAS, output_bias=BIAS),
    defaults=SIZES,
    windowed=True,
    clip="clip_qkv",
    note="with clip_qkv heads are only averaged",
)

OLMO2 = Family(
    model_type="olmo2",
    prefix="Olmo2",
    layout=NORMED,
    defaults=SIZES,
    windowed=True,
    residual="post_attention_layernorm",
    norm=True,
    note="one key norm spans all heads; its weights are merged too",
)

OLMO3 = Family(
    model_type="olmo3",
    prefix="Olmo3",
    layout=NORMED,
    defaults=SIZES,
    window=NativeWindow(default_size=4096, period=("", 4), per_layer=True, kinds_differ=True),
    windowed=True,
    residual="post_attention_layernorm",
    norm=True,
    note="one key norm spans all heads, as in olmo2",
)

OLMOE = Family(
    model_type="olmoe",
    prefix="Olmoe",
    layout=NORMED,
    defaults=sizes(2048, layers=16, heads=16),
    windowed=True,
    norm=True,
    clip="clip_qkv",
    note="one key norm spans all heads, as in olmo2",
)
