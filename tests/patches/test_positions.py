"""``positions: cache``: what rotating every kept key anew by its place in the cache would give."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import patches
from patches.turning import turn_of
from tests.patches.streaming import rotate, streamed_twin
from tests.patches.tiny import GLOBAL, SINKS, VOCAB, WINDOW, windowed_model

POLICY = {"size": WINDOW, "sinks": SINKS, "positions": "cache", "global_layers": GLOBAL}
ROPE = {
    "default": {"rope_type": "default", "rope_theta": 100.0},
    "linear": {"rope_type": "linear", "rope_theta": 100.0, "factor": 3.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
    },
    "yarn": {
        "rope_type": "yarn", "rope_theta": 100.0, "factor": 16.0, "original_max_position_embeddings": 64,
    },
}  # fmt: skip
CASES = {name: ("llama", {"rope_parameters": rope}) for name, rope in ROPE.items()} | {
    "partial": ("phi", {}),
    "step passed on": ("nemotron", {}),
    "norms": ("qwen3", {}),
    "MQA": ("llama", {"num_key_value_heads": 1}),
    "MHA": ("llama", {"num_key_value_heads": 4}),
}


def streaming(case: str = "default", **options: object):
    family, own = CASES[case]
    return windowed_model(family, **{"attention_window": POLICY} | own | options).double()


def prompt(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, (1, length), generator=torch.Generator().manual_seed(seed))


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    # transformers computes the angles of its own rotation in float32.
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_keys_rotated_anew(case, backend):
    model, tokens = streaming(case), prompt(40)
    model.set_attn_implementation(backend)
    with torch.no_grad():
        want = streamed_twin(model)(tokens, use_cache=False).logits
        close(model(tokens).logits, want)
        cache = patches.WindowedCache(model.config)
        pieces = tokens.split([SINKS, WINDOW + 4, 5, *[1] * 20], dim=1)
        close(torch.cat([model(piece, past_key_values=cache).logits for piece in pieces], dim=1), want)


@pytest.mark.parametrize("case", ["default", "yarn", "partial"])
def test_gradients_are_those_of_keys_rotated_anew(case):
    model, tokens = streaming(case).train(), prompt(30)
    twin = streamed_twin(model)
    for each in (model, twin):
        each(tokens, use_cache=False).logits.square().mean().backward()
    found = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name].grad, atol=2e-5, rtol=1e-4, msg=name)


def test_short_texts_are_those_of_absolute_positions_and_long_ones_are_not():
    model = streaming()
    twin = windowed_model("llama", rope_parameters=ROPE["default"]).double()
    with torch.no_grad():
        close(model(prompt(SINKS + WINDOW)).logits, twin(prompt(SINKS + WINDOW)).logits)
        assert (model(prompt(40)).logits - twin(prompt(40)).logits).abs().max() > 1e-2


def test_generation_chooses_what_one_pass_over_the_text_does():
    model, tokens = streaming(), prompt(20)
    got = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=60, do_sample=False)
    with torch.no_grad():
        want = model(got, use_cache=False).logits[0, 19:-1].argmax(-1)
    assert got[0, 20:].tolist() == want.tolist()


def test_padded_rows_equal_their_single_runs():
    model, lengths = streaming(), [30, 5, 17]
    batch, mask = torch.zeros(3, 30, dtype=torch.long), torch.zeros(3, 30, dtype=torch.long)
    for row, length in enumerate(lengths):
        batch[row, 30 - length :], mask[row, 30 - length :] = prompt(length, row), 1
    options = {"max_new_tokens": 20, "do_sample": False}
    together = model.generate(batch, attention_mask=mask, **options)[:, 30:]
    for row, length in enumerate(lengths):
        one = prompt(length, row)
        alone = model.generate(one, attention_mask=torch.ones_like(one), **options)
        assert together[row].tolist() == alone[0, length:].tolist()
        with torch.no_grad():
            close(model(batch, attention_mask=mask).logits[row, 30 - length :], model(one).logits[0])


def test_packed_documents_count_each_for_itself():
    model, pieces = streaming(), [prompt(25), prompt(31, seed=1)]
    positions = torch.cat([torch.arange(25), torch.arange(31)])[None]
    with torch.no_grad():
        packed = model(torch.cat(pieces, dim=1), position_ids=positions, use_cache=False).logits
        close(packed, torch.cat([model(piece).logits for piece in pieces], dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", [100, 10**6, 10**9])
def test_a_million_tokens_on_queries_are_turned_back_as_exactly_as_at_first(position, dtype):
    rotary = streaming().model.rotary_emb
    query = torch.randn(1, 4, 3, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    positions = position + torch.arange(3)[None]
    cos, sin = (part.double()[:, None] for part in rotary(query.float(), positions))
    halves = query.double().chunk(2, dim=-1)
    rotated = (query.double() * cos + torch.cat([-halves[1], halves[0]], dim=-1) * sin).to(dtype)
    turned = turn_of(positions, rotary.inv_freq, WINDOW, SINKS).apply(rotated)
    want = rotate(query, torch.full((3,), WINDOW + SINKS - 1), rotary)
    tolerance = 1e-6 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(turned, want, atol=tolerance, rtol=tolerance)


REFUSED = {
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
    "longrope": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 1.0,
                "short_factor": [1.0] * 6, "long_factor": [2.0] * 6,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "neighbours": ("glm4", {}),
    "positions of its own": ("gemma3_text", {}),
    "no rotary positions": ("smollm3", {}),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_models_whose_queries_cannot_be_turned_are_refused(said):
    family, options = REFUSED[said]
    with pytest.raises(patches.PolicyError, match=f"'cache' cannot be had with this model: .*{said}.*use 'a"):
        windowed_model(family, attention_window=POLICY, **options)
    windowed_model(family, **options)


def test_layers_without_positions_may_be_those_without_a_window(tmp_path):
    model = windowed_model("smollm3", attention_window=POLICY, no_rope_layers=[1, 0, 1])
    model.save_pretrained(tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.window_policy.turns
