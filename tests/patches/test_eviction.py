"""Layers with a budget of tokens: who stays, with what score, is what a plain reference says."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, LlamaConfig

import patches
from patches.policy import PolicyError
from tests.patches.budgets import SCALE, attend, layer_of, stock_model

DIM, SINKS, RECENT, BUDGET = 16, 2, 4, 12


@dataclass
class Head:
    """One KV head of one row as a list of tokens: the reference."""

    budget: int
    kept: dict[int, float] = field(default_factory=dict)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, first: int) -> Tensor:
        """Queries ``[G, T, D]`` from position ``first`` on, keys and values of the whole row ``[N, D]``."""
        tokens = query.shape[1]
        at = torch.arange(first, first + tokens)
        seen = torch.zeros(tokens, key.shape[0], dtype=torch.bool)
        seen[:, list(self.kept)] = True
        seen |= (torch.arange(key.shape[0]) >= first) & (torch.arange(key.shape[0]) <= at[:, None])
        weights = (SCALE * query @ key.T).masked_fill(~seen, -torch.inf).softmax(dim=-1)
        received = weights.sum(dim=(0, 1)).tolist()
        for position in [*self.kept, *at.tolist()]:
            self.kept[position] = self.kept.get(position, 0.0) + received[position]
        self.evict(first + tokens)
        return weights @ value

    def evict(self, end: int) -> None:
        goes = sorted((p for p in self.kept if SINKS <= p < end - RECENT), key=self.kept.__getitem__)
        for position in goes[: max(len(self.kept) - self.budget, 0)]:
            del self.kept[position]


PASSES = {
    "decode": [1] * 30,
    "whole": [40, 1, 1, 1],
    "chunks": [5, 20, 1, 1, 10, 3],
    "around the budget": [11, 1, 1, 1, 13, 12, 1],
    "one token": [1, 38, 1],
}


@pytest.mark.parametrize("heads,kv_heads", [(4, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES.keys())
@pytest.mark.parametrize("starts", [None, (0, 23)], ids=str)
def test_tokens_scores_and_outputs_are_those_of_a_plain_reference(heads, kv_heads, passes, starts):
    torch.manual_seed(sum(passes))
    columns, begins = sum(passes), starts or (0, 0)
    query = torch.randn(2, heads, columns, DIM, dtype=torch.float64)
    key, value = torch.randn(2, 2, kv_heads, columns, DIM, dtype=torch.float64)
    layer = layer_of(f"heavy-hitter:budget={BUDGET},sinks={SINKS},recent={RECENT}")
    rows = [[Head(BUDGET) for _ in range(kv_heads)] for _ in begins]
    past = 0
    for tokens in passes:
        now = slice(past, past + tokens)
        starting = None if starts is None else torch.tensor(starts)
        output = attend(layer, query[:, :, now], key[:, :, now], value[:, :, now], past, starting)
        for row, begin in enumerate(begins):
            own = slice(max(past, begin), past + tokens)
            if own.start >= own.stop:
                continue
            grouped = query[row].unflatten(0, (kv_heads, -1))
            for head, reference in enumerate(rows[row]):
                wanted = reference.attend(
                    grouped[head][:, own], key[row, head, begin:], value[row, head, begin:], own.start - begin
                )
                got = output[row].unflatten(0, (kv_heads, -1))[head, :, own.start - past :]
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
                check_parts(
                    layer.parts, row, head, reference, key[row, head, begin:], value[row, head, begin:]
                )
        past += tokens


def check_parts(parts, row, head, reference, key, value):
    """Keys, values and scores in the slots are those of the tokens that their positions name."""
    positions = parts["positions"][row, head].long()
    filled = positions >= 0
    held = positions[filled]
    assert sorted(held.tolist()) == sorted(reference.kept)
    assert torch.equal(parts["keys"][row, head][filled], key[held])
    assert torch.equal(parts["values"][row, head][filled], value[held])
    wanted = torch.tensor([reference.kept[position] for position in held.tolist()])
    torch.testing.assert_close(parts["scores"][row, head][filled], wanted, rtol=1e-5, atol=1e-6)


def full_scores(model, tokens, mask):
    """What eager attention over everything says that each token received, ``[B, K, N]`` by layer."""
    model.set_attn_implementation("eager")
    position_ids = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        weights = model(
            tokens, attention_mask=mask, position_ids=position_ids, output_attentions=True, use_cache=False
        ).attentions
    real = mask[:, None, :, None]
    return [
        (each * real).sum(dim=2).unflatten(1, (model.config.num_key_value_heads, -1)).sum(dim=2)
        for each in weights
    ]


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("cuts", [(), (7, 8, 9, 30)], ids=["whole", "chunks"])
@pytest.mark.parametrize("config", [LlamaConfig, Gemma2Config])
def test_scores_of_a_model_are_those_of_attention_in_full(kv_heads, cuts, config):
    own = {"sliding_window": 100, "query_pre_attn_scalar": 12} if config is Gemma2Config else {}
    model = stock_model(config, num_key_value_heads=kv_heads, **own)
    tokens = torch.randint(3, 97, (2, 50))
    mask = torch.ones_like(tokens)
    mask[1, :19] = 0
    wanted = full_scores(model, tokens, mask)
    cache = patches.make_cache(model, "heavy-hitter:budget=60,sinks=2,recent=4")
    done = 0
    with torch.no_grad():
        for part in tokens.tensor_split(cuts, dim=1):
            now = mask[:, : done + part.shape[1]]
            position_ids = (now.cumsum(1) - 1).clamp(min=0)[:, done:]
            model(part, attention_mask=now, position_ids=position_ids, past_key_values=cache)
            done += part.shape[1]
    for layer, scores in zip(cache.layers, wanted, strict=True):
        if not hasattr(layer, "parts"):
            continue
        for row, begin in enumerate((0, 19)):
            got = layer.parts["scores"][row, :, : 50 - begin]
            torch.testing.assert_close(got, scores[row, :, begin:].float(), rtol=1e-4, atol=1e-5)


def test_attention_that_says_no_weights_is_noticed():
    layer = layer_of("heavy-hitter")
    layer.update(*torch.zeros(2, 1, 2, 3, 12))
    with pytest.raises(PolicyError, match="was not told what weight the tokens before received"):
        layer.update(*torch.zeros(2, 1, 2, 1, 12))


def test_of_equal_scores_the_older_goes():
    layer = layer_of("heavy-hitter:budget=6,sinks=1,recent=2")
    layer.update(*torch.zeros(2, 1, 1, 9, 4))[0].stored.observe([torch.ones(1, 1, 9)])
    assert sorted(layer.parts["positions"][0, 0].tolist()) == [0, 4, 5, 6, 7, 8]


def test_a_crop_forgets_scores_and_places_of_its_tokens():
    torch.manual_seed(0)
    states = torch.randn(3, 2, 2, 40, DIM, dtype=torch.float64)
    layer = layer_of("heavy-hitter:budget=30,sinks=2,recent=4")
    starts = torch.tensor([0, 11])
    attend(layer, *states[:, :, :, :20], 0, starts)
    layer.crop(-6)
    assert layer.seen == 14 and layer.parts["positions"].amax(dim=(1, 2)).tolist() == [13, 2]
    attend(layer, *states[:, :, :, 14:25], 14, starts)
    assert layer.parts["positions"][0, 0, :25].tolist() == list(range(25))
    assert torch.equal(layer.parts["keys"][1, :, :14], states[1, 1, :, 11:25])
    attend(layer, *states[:, :, :, 25:40], 25, starts)
    with pytest.raises(PolicyError, match="cannot go back to 39 of 40 tokens"):
        layer.crop(-1)
    layer.crop(0)
