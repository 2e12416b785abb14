"""Layers that keep the step from their attention: compiled, run twice by checkpointing, and in threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._dynamo.utils import counters

import patches
from patches.passing import PassingMixin
from patches.remote import FAMILIES
from tests.patches.tiny import LAYERS, VOCAB, windowed_model

KEEPING = [
    config.model_type.removeprefix("windowed_")
    for config, decoder, _ in FAMILIES
    if issubclass(decoder, PassingMixin)
]
families = pytest.mark.parametrize("family", KEEPING)


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, length), generator=torch.Generator().manual_seed(seed))


def test_a_decode_step_compiles_whole_and_once():
    model, tokens = windowed_model(KEEPING[0]), prompt(20)
    torch._dynamo.reset()
    counters.clear()
    logits = []
    with torch.no_grad():
        for compiled in (False, True):
            cache = patches.WindowedCache(model.config, max_length=40)

            def step(token, cache=cache):
                return model(token, past_key_values=cache).logits

            step(tokens)
            decode = torch.compile(step, fullgraph=True, backend="eager") if compiled else step
            logits.append(torch.cat([decode(tokens[:, at : at + 1]) for at in range(12)], dim=1))
    torch.testing.assert_close(*logits)
    assert counters["stats"]["unique_graphs"] <= 2 and not counters["graph_break"]


@families
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_every_pass_its_own_padding_again(family, reentrant):
    model, tokens = windowed_model(family).train(), prompt(30)
    masks = [torch.ones_like(tokens), torch.ones_like(tokens)]
    masks[0][0, :9] = 0
    grads = []
    for enabled in (False, True):
        if enabled:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        sum(model(tokens, attention_mask=mask, labels=tokens).loss for mask in masks).backward()
        grads.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@families
def test_threads_that_share_a_model_keep_their_steps_apart(family):
    model, prompts = windowed_model(family), [prompt(5 + 4 * index, index) for index in range(8)]

    def generate(tokens):
        mask = torch.ones_like(tokens)
        mask[0, : tokens.shape[1] // 2] = 0
        return model.generate(tokens, attention_mask=mask, max_new_tokens=12, do_sample=False).tolist()

    alone = [generate(tokens) for tokens in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(generate, prompts)) == alone


@families
def test_layers_are_found_by_the_names_and_classes_that_transformers_knows(family):
    model = windowed_model(family)
    assert {type(layer).__name__ for layer in model.model.layers} <= set(model._no_split_modules)
    assert len(model(prompt(9), output_hidden_states=True).hidden_states) == LAYERS + 1
