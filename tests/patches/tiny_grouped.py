"""Tiny grouped models of every family, and the models of transformers with the shared heads written out."""

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from patches.cache.windowed import WindowedCache
from patches.modeling import WindowedMixin
from patches.remote import GROUPED_FAMILIES, WindowedGPTNeoXConfig

HEADS, HEAD_DIM, LAYERS, VOCAB = 6, 4, 2, 61
AS_STOCK = [config.model_type.removeprefix("windowed_") for config, _, _ in GROUPED_FAMILIES]
"""Families that attend as transformers does; the other one has windows."""
CONFIGS = {family: config for family, (config, _, _) in zip(AS_STOCK, GROUPED_FAMILIES, strict=True)} | {
    "gpt_neox": WindowedGPTNeoXConfig
}

MORE = {
    "gpt_neox": {"intermediate_size": 40, "max_position_embeddings": 128},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"ffn_dim": 40, "init_std": 0.3, "dropout": 0.0},
    "gptj": {"rotary_dim": 2, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "falcon": {"multi_query": False},
    "bloom": {},
    "mpt": {},
}
VARIANTS = {
    **{family: (family, {}) for family in MORE},
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "gpt2-scaled": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "opt-350m": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 16}),
    "falcon-rw": ("falcon", {"alibi": True, "parallel_attn": False, "bias": True}),
    "mpt-clipped": ("mpt", {"attn_config": {"clip_qkv": 0.5, "softmax_scale": 0.3}}),
}
"""What a checkpoint of a family may look like, by name."""


def grouped_model(name: str, kv_heads: int = 2, seed: int = 0, **options: object) -> PreTrainedModel:
    """A grouped model with random weights, in float64."""
    family, special = VARIANTS[name]
    shape = {
        "vocab_size": VOCAB, "hidden_size": HEADS * HEAD_DIM, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": kv_heads, "initializer_range": 0.3,
        "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
    } | MORE[family] | special | options  # fmt: skip
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](**shape)).double().eval()
    with torch.no_grad():
        for tensor_name, tensor in model.named_parameters():
            if tensor_name.endswith("bias"):
                # Zero, as transformers makes them, they would hide a bias in the wrong place.
                tensor.normal_(std=0.3)
    return model


def new_cache(model: PreTrainedModel) -> Cache:
    """An empty cache that ``model`` takes."""
    return (WindowedCache if isinstance(model, WindowedMixin) else DynamicCache)(config=model.config)


def stock_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The class of transformers that a grouped model is made of."""
    return next(kind for kind in type(model).__mro__ if kind.__module__.startswith("transformers."))


def written_out(model: PreTrainedModel, **options: object) -> PreTrainedModel:
    """The model of transformers with every KV head copied for each of its query heads."""
    stock, entry = stock_class(model), model.config.to_dict()
    for key in ("num_key_value_heads", "attention_window", "model_type", "num_kv_heads"):
        entry.pop(key, None)
    torch.manual_seed(0)
    twin = stock(stock.config_class(**entry, **options)).double().eval()
    kv_heads = model.config.num_key_value_heads
    twin.load_state_dict(
        {name: write_out(name, value, HEADS, kv_heads) for name, value in model.state_dict().items()}
    )
    return twin


def write_out(name: str, tensor: Tensor, heads: int, kv_heads: int, head_dim: int = HEAD_DIM) -> Tensor:
    """A tensor of a model with fewer KV heads as the original architecture has it."""
    index = [row * head_dim + dim for row in source_rows(name, heads, kv_heads) for dim in range(head_dim)]
    if not index:
        return tensor
    return tensor.index_select(tensor.ndim - 1 if "c_attn" in name else 0, torch.tensor(index))


def source_rows(name: str, heads: int, kv_heads: int) -> list[int]:
    """For each head of the original projection, which of the grouped one it is; for other tensors nothing."""
    groups = heads // kv_heads
    shared = [head // groups for head in range(heads)]
    if "k_proj" in name or "v_proj" in name:
        return shared
    if "c_attn" in name or "Wqkv" in name:
        keys = [heads + head for head in shared]
        return [*range(heads), *keys, *(kv_heads + key for key in keys)]
    if "query_key_value" in name:
        block = groups + 2
        return [
            row
            for head in range(heads)
            for row in (
                shared[head] * block + head % groups,
                shared[head] * block + groups,
                shared[head] * block + groups + 1,
            )
        ]
    return []
