"""Mistral: one window for every layer; mixed layers are Ministral's."""

from convert.families.family import Family, NativeWindow, Sibling

MISTRAL = Family(
    model_type="mistral",
    prefix="Mistral",
    attention_bias=False,
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
    note="a window with global layers is written as ministral",
)
