"""InternLM3: runs as Llama."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

INTERNLM3 = Family(
    model_type="internlm3",
    prefix="InternLM3",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults=sizes(4096, layers=48, heads=32, kv_heads=2, head_dim=128),
    note="transformers 5.17 does not know it yet",
)
