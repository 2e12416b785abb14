"""Mistral: one window for every layer; mixed layers are Ministral's."""

from convert.families.family import Family
from convert.families.forms import NativeWindow, Sibling
from convert.families.layouts.separate import Separate

MISTRAL = Family(
    model_type="mistral",
    prefix="Mistral",
    layout=Separate(),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    window=NativeWindow(default_size=4096),
    sibling=Sibling(model_type="ministral", prefix="Ministral"),
    windowed=True,
    note="a window with global layers is written as ministral",
)
