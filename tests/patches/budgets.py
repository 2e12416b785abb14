"""Layers with a budget of tokens, and a stock model, for tests."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from patches.attention import sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache.policies import parse
from patches.cache.policies.policy import Place
from patches.frame import Frame, Step

PLACE = Place(0, None, 0, 1)
SCALE = 0.8


def attend(layer, query, key, value, past, starts=None):
    """One pass through a layer and attention, as a model would."""
    read, _ = layer.update(key, value, starts=starts)
    frame = Frame(Step(past, starts), query.shape[2], None, 0)
    return stored.attend(query, read.stored, frame, Scoring(SCALE), sdpa.attend)


def layer_of(spec: str, place: Place = PLACE):
    return parse(spec, "global").make(place)


SHAPE = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "head_dim": 12, "initializer_range": 0.2, "max_position_embeddings": 512,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None,
}  # fmt: skip


def stock_model(config=LlamaConfig, **options):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SHAPE | options)).eval()
