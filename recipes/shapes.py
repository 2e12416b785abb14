"""Shapes of models that are known without a download."""

from typing import Any

from transformers import LlamaConfig

SHAPES: dict[str, dict[str, Any]] = {
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "13B": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
    },
    "70B": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""Llama 2 in its three sizes."""
KNOWN = {f"meta-llama/Llama-2-{size.lower()}-hf": size for size in SHAPES} | {
    "NousResearch/Yarn-Llama-2-7b-128k": "7B"
}
"""Sources of shipped recipes whose shapes are known without a download."""


def shape_config(size: str) -> LlamaConfig:
    """The config of one of the ``SHAPES``."""
    return LlamaConfig(vocab_size=32000, **SHAPES[size])
