"""Seed-OSS: biases on q, k and v, and by a switch of its own on o."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.separate import Separate

SEED_OSS = Family(
    model_type="seed_oss",
    prefix="SeedOss",
    layout=Separate(qkv_bias=("attention_bias", True), output_bias=("attention_out_bias", False)),
    defaults=sizes(4096, layers=64, heads=80, kv_heads=8, head_dim=128),
    windowed=True,
    note="key and value biases are merged like their weights",
)
