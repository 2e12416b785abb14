"""Tiny windowed models whose layers differ in their KV heads, and the equal-headed twins they must match."""

import pytest
import torch
from transformers import PreTrainedModel

from tests.patches.tiny import CONFIGS, OWN, SINKS, VOCAB, WINDOW, windowed_model
from tests.patches.tiny_grouped import write_out

HEADS, HEAD_DIM, KEPT = 4, 12, [1, 4, 2]
BY_LAYER = {"0": {"num_key_value_heads": 1}, "1": {"num_key_value_heads": 4}}
"""The last layer is left to the 2 heads of the whole config."""
WINDOWS = {
    "window": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [1]},
    "all-global": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [0, 1, 2]},
    "no-window": None,
}
TELLING = ("gpt_neox", "llama", "mixtral", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3")
"""What is special to a family: no key for KV heads, experts, a norm over all heads, other names, one tensor,
biases, norms."""
families = pytest.mark.parametrize("family", TELLING)
others = pytest.mark.parametrize(
    "family",
    sorted(name for name in CONFIGS if "native_layer_types" not in OWN.get(name, {}).keys() | TELLING),
)
windows = pytest.mark.parametrize("window", WINDOWS)
either = pytest.mark.parametrize("window", ["window", "no-window"])


def by_layer(family: str, window: str = "window", **options: object) -> PreTrainedModel:
    options = {"sliding_window": None, "attention_window": WINDOWS[window]} | options
    return windowed_model(family, per_layer_config=BY_LAYER, **options)


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """The windowed model with a KV head per query head, equal within a group, that ``model`` must equal."""
    window = model.config.attention_window or WINDOWS["all-global"]
    family = model.config.model_type.removeprefix("windowed_")
    twin = windowed_model(family, num_key_value_heads=HEADS, attention_window=window, sliding_window=None)
    weights, wanted = model.state_dict(), twin.state_dict()
    for name, weight in weights.items():
        if weight.shape != wanted[name].shape and "query_key_value" in name:
            kept = (len(weight) // HEAD_DIM - HEADS) // 2
            weights[name] = write_out(name, weight, HEADS, kept, HEAD_DIM)
        elif weight.shape != wanted[name].shape:
            own = HEADS * HEAD_DIM if "qkv_proj" in name else 0
            heads = weight[own:].unflatten(0, (-1, HEAD_DIM))
            times = (len(wanted[name]) - own) // (len(weight) - own)
            weights[name] = torch.cat([weight[:own], heads.repeat_interleave(times, dim=0).flatten(0, 1)])
    twin.load_state_dict(weights)
    return twin


def prompt(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def generate(model, tokens, **options):
    options = {"max_new_tokens": 10, "do_sample": False, "attention_mask": torch.ones_like(tokens)} | options
    return model.generate(tokens, **options).tolist()
