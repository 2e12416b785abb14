"""Tiny windowed models whose layers differ in their KV heads, and the equal-headed twins they must match."""

import pytest
import torch
from transformers import PreTrainedModel

from tests.patches.tiny import CONFIGS, SINKS, VOCAB, WINDOW, windowed_model

HEADS, HEAD_DIM, KEPT = 4, 12, [1, 4, 2]
BY_LAYER = {"0": {"num_key_value_heads": 1}, "1": {"num_key_value_heads": 4}}
"""The last layer is left to the 2 heads of the whole config."""
WINDOWS = {
    "window": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [1]},
    "all-global": {"size": WINDOW, "sinks": SINKS, "positions": "absolute", "global_layers": [0, 1, 2]},
    "no-window": None,
}
families = pytest.mark.parametrize("family", sorted(CONFIGS))
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
    weights = model.state_dict()
    for name, weight in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = weight.unflatten(0, (-1, HEAD_DIM))
            weights[name] = heads.repeat_interleave(HEADS // len(heads), dim=0).flatten(0, 1)
    twin.load_state_dict(weights)
    return twin


def prompt(length: int, rows: int = 1) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(0))


def generate(model, tokens, **options):
    options = {"max_new_tokens": 10, "do_sample": False, "attention_mask": torch.ones_like(tokens)} | options
    return model.generate(tokens, **options).tolist()
