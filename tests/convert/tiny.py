"""Sizes of the tiny random model of every family, and of the variants that its config can switch on."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
"""Heads do not fill the hidden size, which shows where a converter mixes the two up."""

SQUARE = {"hidden_size": 64, "head_dim": None}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXED = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
TOKENS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
GPT = TOKENS | {"n_embd": 64, "n_layer": 3, "n_head": 8, "n_positions": 128}

OWN_SIZES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bloom": {"hidden_size": 64, "n_layer": 3, "n_head": 8},
    "cohere": {},
    "cohere2": MIXED | SQUARE,
    "ernie4_5": {},
    "exaone4": MIXED,
    "falcon": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "multi_query": False,
        "parallel_attn": False,
        "bias": True,
    },
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": MIXED | {"query_pre_attn_scalar": 8},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "gpt2": GPT,
    "gpt_neox": {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
    },
    "gpt_oss": MIXED | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "gptj": GPT | {"rotary_dim": 4},
    "granite": {"residual_multiplier": 0.5, "attention_multiplier": 0.3},
    "granitemoe": {"residual_multiplier": 0.5, "attention_multiplier": 0.3} | EXPERTS,
    "helium": SQUARE | {"head_dim": 8},
    "internlm3": {},
    "llama": {},
    "ministral": {"sliding_window": 16},
    "mistral": {"sliding_window": None},
    "mixtral": EXPERTS,
    "mpt": {"d_model": 64, "n_layers": 3, "n_heads": 8, "max_seq_len": 128, "expansion_ratio": 2},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": MIXED,
    "olmoe": SQUARE | EXPERTS,
    "opt": {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "ffn_dim": 48,
        "max_position_embeddings": 128,
    },
    "phi": {"rms_norm_eps": None},
    "phi3": {},
    "qwen2": {"hidden_size": 64},
    "qwen2_moe": {"hidden_size": 64, "shared_expert_intermediate_size": 16} | EXPERTS,
    "qwen3": {"attention_bias": True},
    "qwen3_moe": EXPERTS,
    "seed_oss": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "stablelm": {"hidden_size": 128, "head_dim": None, "use_qkv_bias": True},
    "starcoder2": {},
}
WITHOUT_KV_HEADS = ("bloom", "falcon", "gpt2", "gpt_neox", "gptj", "mpt", "opt")
"""Families whose configs know none of ``SIZES`` but what they name themselves."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere with norms": ("cohere", {"use_qk_norm": True}),
    "falcon new decoder": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 4, "parallel_attn": True},
    ),
    "falcon parallel": ("falcon", {"parallel_attn": True, "bias": False}),
    "falcon with slopes": ("falcon", {"alibi": True}),
    "gpt_neox without bias": ("gpt_neox", {"attention_bias": False}),
    "llama with bias": ("llama", {"attention_bias": True}),
    "mpt clipped": ("mpt", {"attn_config": {"clip_qkv": 0.3}}),
    "olmo clipped": ("olmo", {"clip_qkv": 0.3}),
    "opt with norms after": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "phi with norms": ("phi", SQUARE | {"qk_layernorm": True}),
    "phi3 partly rotary": ("phi3", {"partial_rotary_factor": 0.5}),
    "seed_oss with output bias": ("seed_oss", {"attention_out_bias": True}),
}
"""What a config can switch on that changes the tensors or what may be done to them."""

CASES = {family: (family, dict[str, Any]()) for family in OWN_SIZES} | VARIANTS


def tiny_sizes(family: str, **changes: Any) -> dict[str, Any]:
    """Give the config keys of a family's tiny model; a change to None removes a key."""
    base = TOKENS if family in WITHOUT_KV_HEADS else SIZES
    changed = base | OWN_SIZES[family] | changes
    return {key: value for key, value in changed.items() if value is not None or key == "sliding_window"}
