"""Shapes of models that are known without a download: sources of shipped recipes, and Llama 2."""

from transformers import AutoConfig, LlamaConfig, PretrainedConfig

from recipes.loading import is_local

SIZES = {
    # Hidden size, that of the MLP, layers, heads, KV heads, vocabulary.
    "meta-llama/Llama-2-7b-hf": (4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-7b-chat-hf": (4096, 11008, 32, 32, 32, 32000),
    "meta-llama/Llama-2-13b-hf": (5120, 13824, 40, 40, 40, 32000),
    "meta-llama/Llama-2-70b-hf": (8192, 28672, 80, 64, 8, 32000),
    "meta-llama/Meta-Llama-3-8B": (4096, 14336, 32, 32, 8, 128256),
    "mistralai/Mistral-7B-v0.3": (4096, 14336, 32, 32, 8, 32768),
    "NousResearch/Yarn-Llama-2-7b-128k": (4096, 11008, 32, 32, 32, 32000),
    "princeton-nlp/Sheared-LLaMA-1.3B": (2048, 5504, 24, 16, 16, 32000),
}


def shape_config(source: str) -> LlamaConfig | None:
    """A config with the sizes of a source on the hub; None if they are not known.

    Args:
        source: Its hub id.
    """
    if source not in SIZES:
        return None
    hidden, mlp, layers, heads, kv_heads, vocabulary = SIZES[source]
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
    )


def source_config(source: str) -> PretrainedConfig | None:
    """The config of a recipe's source, of one on the hub with its sizes alone; None if they are not known.

    Args:
        source: Folder or hub id.
    """
    return AutoConfig.from_pretrained(source) if is_local(source) else shape_config(source)
