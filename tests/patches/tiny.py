"""Tiny windowed models of every family, and the masked dense models that they must equal."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from patches.grouped.config import FewerHeadsConfigMixin
from patches.remote import FAMILIES
from tests.patches.tiny_grouped import write_out

WINDOW, SINKS, GLOBAL, LAYERS, HEADS, VOCAB = 8, 3, [1], 3, 4, 97
CONFIGS = {config.model_type.removeprefix("windowed_"): config for config, _, _ in FAMILIES}
NATIVE = {
    "sliding_window": 64,
    "native_layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
EXPERTS = {
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
OWN: dict[str, dict[str, object]] = {
    "cohere": {"logit_scale": 1.0},
    "cohere2": NATIVE | {"logit_scale": 1.0},
    "exaone4": NATIVE,
    "gemma2": NATIVE | {"query_pre_attn_scalar": 12, "attn_logit_softcapping": 2.0},
    "gemma3_text": NATIVE | {"query_pre_attn_scalar": 12},
    "gpt_oss": NATIVE | EXPERTS | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    "granite": {"attention_multiplier": 0.3, "residual_multiplier": 0.5},
    "granitemoe": EXPERTS,
    "ministral": NATIVE,
    "mixtral": EXPERTS,
    "olmo3": NATIVE,
    "olmoe": EXPERTS,
    "phi3": {"partial_rotary_factor": 0.5},
    "qwen2_moe": EXPERTS,
    "qwen3_moe": EXPERTS,
    "smollm3": {"no_rope_layers": [1, 0, 0]},
    "stablelm": {"partial_rotary_factor": 0.5, "use_qkv_bias": True, "use_parallel_residual": True},
}
"""What a family needs to be tiny, or to show what is its own."""


def windowed_model(family: str, seed: int = 0, **options: object) -> PreTrainedModel:
    """A windowed model of ``family`` with random weights, 3 layers of which the middle one is global."""
    shape = {
        "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": 2, "head_dim": 12,
        "max_position_embeddings": 1024,
        "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0, "initializer_range": 0.2,
        "attention_window": {
            "size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": GLOBAL
        },
    } | OWN.get(family, {}) | options  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[family](**shape)).eval()


def dense_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model of transformers with the same weights, eager and without any window of ours."""
    base = next(kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))
    entry = model.config.to_dict()
    for key in ("attention_window", "layer_types", "model_type"):
        entry.pop(key, None)
    if "native_layer_types" in entry:
        entry["layer_types"] = entry.pop("native_layer_types")
    twin = base(base.config_class(**entry, attn_implementation="eager")).eval().to(model.dtype)
    weights = model.state_dict()
    if isinstance(model.config, FewerHeadsConfigMixin):
        kept, head_dim = model.config.num_key_value_heads, model.config.hidden_size // HEADS
        weights = {name: write_out(name, each, HEADS, kept, head_dim) for name, each in weights.items()}
    twin.load_state_dict(weights)
    return twin


def masked_logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Logits ``[1, N, V]`` of the dense twin whose layers add the exact mask to their scores."""
    twin, policy = dense_model(model), model.config.window_policy
    i = torch.arange(tokens.shape[1])
    distance = i[:, None] - i
    hooks = []
    for index, layer in enumerate(twin.base_model.layers):
        window = policy.window_of(index)
        seen = (
            (distance >= 0)
            if window is None
            else (distance >= 0) & ((distance < window) | (i < policy.sinks))
        )
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
        attention = getattr(layer, model.base_model.attention_name)
        hooks.append(attention.register_forward_pre_hook(_with_mask(mask), with_kwargs=True))
    with torch.no_grad():
        logits = twin(tokens, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits


def _with_mask(mask: Tensor):
    def hook(_module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask}

    return hook
