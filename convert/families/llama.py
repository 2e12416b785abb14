"""Llama: no native window, but Ministral is the same network with ``layer_types``."""

from convert.families.family import Family
from convert.families.forms import Sibling
from convert.families.layouts.separate import Separate

LLAMA = Family(
    model_type="llama",
    prefix="Llama",
    layout=Separate(qkv_bias=("attention_bias", False), output_bias=("attention_bias", False)),
    defaults={
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "max_position_embeddings": 2048,
    },
    sibling=Sibling(
        model_type="ministral",
        prefix="Ministral",
        lacks=("attention_bias", "mlp_bias"),
        drops=("attention_bias", "mlp_bias", "pretraining_tp"),
    ),
    windowed=True,
    note="a window without sinks is written as ministral",
)
