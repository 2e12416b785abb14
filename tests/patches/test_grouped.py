"""A grouped model is the model of transformers with its shared KV heads written out, and remembers less."""

import copy

import pytest
import torch
from transformers import DynamicCache, StaticCache

import patches
from tests.patches.tiny_grouped import AS_STOCK, HEADS, VARIANTS, VOCAB, grouped_model, written_out

variants = pytest.mark.parametrize("name", sorted(VARIANTS))
as_stock = pytest.mark.parametrize(
    "name", sorted(name for name, (family, _) in VARIANTS.items() if family in AS_STOCK)
)
SINGLE = {"bloom", "mpt", "gptj"}
"""Families whose softmax is in float32 whatever the model is in."""


def tolerance(name: str, implementation: str = "sdpa") -> dict[str, float]:
    single = implementation == "eager" or name.split("-")[0] in SINGLE
    return {"atol": 2e-6, "rtol": 2e-6} if single else {"atol": 1e-11, "rtol": 1e-11}


def prompt(length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain(model) -> str:
    """What transformers calls the attention of a grouped model."""
    return model.config._attn_implementation.removeprefix("grouped_")


def steps(model, cache, tokens, sizes):
    """Logits of ``tokens``, given in pieces of the ``sizes``."""
    with torch.no_grad():
        return torch.cat(
            [
                model(part, past_key_values=cache, use_cache=True).logits
                for part in tokens.split(sizes, dim=1)
            ],
            dim=1,
        )


@pytest.mark.parametrize(
    "name,kv_heads",
    [(name, count) for name in sorted(VARIANTS) for count in (1, 2)] + [(name, HEADS) for name in AS_STOCK],
)
def test_logits_are_those_of_the_heads_written_out(name, kv_heads):
    model = grouped_model(name, kv_heads)
    twin, tokens = written_out(model), prompt(12, rows=2)
    with torch.no_grad():
        want = twin(tokens).logits
        torch.testing.assert_close(model(tokens).logits, want, **tolerance(name))
        torch.testing.assert_close(model(tokens, use_cache=False).logits, want, **tolerance(name))


@as_stock
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_decoding_and_chunks_equal_one_pass_and_store_one_head_of_each_group(name, implementation):
    model = grouped_model(name)
    if implementation == "eager":
        model.set_attn_implementation("eager")
    twin, tokens = written_out(model, attn_implementation=plain(model)), prompt(12, rows=2)
    close = tolerance(name, implementation)
    for sizes in ([1] * 12, [5, 3, 1, 1, 2]):
        cache, full = DynamicCache(config=model.config), DynamicCache(config=twin.config)
        want = steps(twin, full, tokens, sizes)
        torch.testing.assert_close(steps(model, cache, tokens, sizes), want, **close)
        for stored, original in zip(cache.layers, full.layers, strict=True):
            assert stored.keys.shape[1] == stored.values.shape[1] == 2
            assert stored.keys.untyped_storage().nbytes() * 3 == original.keys.untyped_storage().nbytes()
            torch.testing.assert_close(stored.keys, original.keys[:, ::3], **close)


@variants
def test_generation_with_padding_and_beams_equals_the_heads_written_out(name):
    model = grouped_model(name)
    # In float64 the mask of transformers overflows a softmax in float32, and padding becomes NaN.
    twin, tokens, model = written_out(model).float(), prompt(9, rows=2), model.float()
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    for options in ({}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        options |= {"attention_mask": mask, "max_new_tokens": 7, "do_sample": False, "use_cache": True}
        assert model.generate(tokens, **options).tolist() == twin.generate(tokens, **options).tolist()


@variants
def test_a_left_padded_row_equals_its_single_run(name):
    model, tokens = grouped_model(name).float(), prompt(9, rows=2)
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    options = {"max_new_tokens": 7, "do_sample": False, "use_cache": True}
    together = model.generate(tokens, attention_mask=mask, **options)
    for row, start in enumerate((0, 4)):
        alone = model.generate(tokens[row : row + 1, start:], **options)
        assert together[row, 9:].tolist() == alone[0, 9 - start :].tolist()


@pytest.mark.parametrize("name", ["gpt2", "mpt"])
def test_the_cache_of_generate_counts_its_bytes(name):
    model = grouped_model(name)
    run = model.generate(prompt(5, rows=3), max_new_tokens=4, use_cache=True, return_dict_in_generate=True)
    cache = run.past_key_values
    assert isinstance(cache, patches.GroupedCache)
    # Keys and values, 2 layers, 3 rows, 2 heads, 8 tokens (the last one is not fed), head_dim 4, float64.
    assert cache.nbytes == 2 * 2 * 3 * 2 * 8 * 4 * 8
    assert patches.GroupedCache(config=model.config).nbytes == 0


@pytest.mark.parametrize("name", ["gpt2", "opt", "gptj", "falcon"])
def test_a_static_cache_holds_the_shared_heads(name):
    model, tokens = grouped_model(name), prompt(6)
    options = {"max_new_tokens": 6, "do_sample": False}
    cache = StaticCache(config=model.config, max_cache_len=16)
    assert model.generate(tokens, past_key_values=cache, **options).tolist() == (
        model.generate(tokens, **options).tolist()
    )
    assert cache.layers[0].keys.shape[1:3] == (2, 16)
    static = model.generate(tokens, cache_implementation="static", **options)
    assert static.tolist() == model.generate(tokens, **options).tolist()


@as_stock
def test_crop_and_reordering_act_on_the_shared_heads(name):
    model, tokens = grouped_model(name), prompt(10, rows=2)
    cache, fresh = (patches.GroupedCache(config=model.config) for _ in range(2))
    steps(model, cache, tokens, [10])
    cache.crop(-3)
    cache.reorder_cache(torch.tensor([1, 0]))
    swapped = tokens[[1, 0]]
    steps(model, fresh, swapped[:, :7], [7])
    torch.testing.assert_close(
        steps(model, cache, swapped[:, 7:], [1, 2]),
        steps(model, fresh, swapped[:, 7:], [1, 2]),
        **tolerance(name),
    )


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "opt", "bloom", "falcon", "gptj", "mpt"])
def test_attention_weights_are_those_of_the_heads_written_out(name):
    model, tokens = grouped_model(name), prompt(7)
    twin = written_out(model, attn_implementation="eager")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        got, want = (one(tokens, output_attentions=True).attentions for one in (model, twin))
    assert len(got) == len(want) == 2
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, **tolerance(name, "eager"))


def test_attention_goes_by_the_names_of_transformers():
    model = grouped_model("opt")
    for requested, name in (("eager", "eager"), ("sdpa", "grouped_sdpa")):
        model.set_attn_implementation(requested)
        assert model.config._attn_implementation == name == model.model.decoder.config._attn_implementation
    assert grouped_model("falcon").config._attn_implementation == "sdpa"


def test_sdpa_of_transformers_written_into_the_config_stays_exact_and_small():
    model, tokens = grouped_model("gpt2"), prompt(6)
    want = model(tokens).logits
    model.config._attn_implementation = "sdpa"
    cache = patches.GroupedCache(config=model.config)
    torch.testing.assert_close(steps(model, cache, tokens, [1] * 6), want.detach())
    assert cache.layers[0].keys.shape[1] == 2


def test_continuous_batching_is_refused():
    with pytest.raises(patches.PolicyError, match="would store all 6 heads instead of 2"):
        grouped_model("gpt2").generate_batch([[3, 4, 5]])


def test_a_copy_of_a_model_is_a_model_of_its_own():
    model, tokens = grouped_model("gpt2"), prompt(5)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        want = model(tokens).logits
        for parameter in twin.parameters():
            parameter.zero_()
        assert twin(tokens).logits.abs().max() == 0
        torch.testing.assert_close(model(tokens).logits, want)


def test_two_models_from_one_config_keep_their_own_attention():
    first = grouped_model("gpt2")
    second = type(first)(first.config)
    second.set_attn_implementation("eager")
    assert first.config._attn_implementation == "grouped_sdpa"
