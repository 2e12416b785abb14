"""GPT-NeoX and Pythia: each head's query, key and value side by side, rotary in a quarter of a head."""

from convert.families.family import Family
from convert.families.keys import sizes
from convert.families.layouts.interleaved import Interleaved

GPT_NEOX = Family(
    model_type="gpt_neox",
    prefix="GPTNeoX",
    layout=Interleaved(
        output="dense", qkv_bias=("attention_bias", True), output_bias=("attention_bias", True)
    ),
    defaults=sizes(6144, layers=44, heads=64),
    grouped=False,
    windowed=True,
    base="gpt_neox",
    attention="attention",
    buffers=("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"),
    rotary_part=0.25,
    rotary_keys=("rotary_pct", "partial_rotary_factor"),
    note="Pythia and GPT-NeoX",
)
