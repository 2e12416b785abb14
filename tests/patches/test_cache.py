"""The bounded cache never grows past its bytes, and every operation on it keeps what the window needs."""

import pytest
import torch

import patches
from patches.cache.window import WindowLayer
from tests.patches.tiny import SINKS, WINDOW, windowed_model


def fill(model, length, rows=1, **mode):
    cache = patches.WindowedCache(model.config, **mode)
    tokens = torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(tokens, past_key_values=cache, use_cache=True)
    return cache, tokens


@pytest.mark.parametrize("rows", [1, 3])
def test_nbytes_is_the_formula_and_stays_there(rows):
    model = windowed_model("llama")
    slot = 2 * 2 * 12 * 4 * rows  # keys and values, 2 heads, head_dim 12, float32
    for length, columns in ((1, 16), (WINDOW, 16), (50, 64)):
        cache, _ = fill(model, length, rows)
        assert cache.nbytes == (2 * (WINDOW + SINKS) + columns) * slot
    before = [layer.keys.data_ptr() for layer in (cache.layers[0], cache.layers[2])]
    for _ in range(40):
        with torch.no_grad():
            model(torch.full((rows, 1), 5), past_key_values=cache, use_cache=True)
    assert cache.nbytes == (2 * (WINDOW + SINKS) + 96) * slot
    assert [layer.keys.data_ptr() for layer in (cache.layers[0], cache.layers[2])] == before


def test_a_prompt_a_hundred_windows_long_leaves_only_the_window_behind():
    layer = WindowLayer(8, 2)
    keys = torch.randn(1, 2, 800, 4)
    layer.update(keys, keys)
    assert layer.keys.untyped_storage().nbytes() == 10 * 2 * 4 * 4
    kept = layer.keys[0, 0, :, 0]
    assert sorted(kept.tolist()) == sorted(torch.cat([keys[0, 0, :2, 0], keys[0, 0, -8:, 0]]).tolist())


def continuation(model, cache, token):
    with torch.no_grad():
        return model(token, past_key_values=cache, use_cache=True).logits


MODES = pytest.mark.parametrize(
    "mode",
    [
        {}, {"layout": "tokens-first"}, {"max_length": 90}, {"max_length": 90, "layout": "tokens-first"},
        {"offload": True},
    ],
    ids=str,
)  # fmt: skip


@MODES
@pytest.mark.parametrize("kind", [int, torch.tensor], ids=["int", "tensor"])
def test_crop_before_the_ring_wraps_equals_never_having_seen_the_tokens(kind, mode):
    model = windowed_model("llama")
    cache, tokens = fill(model, WINDOW + SINKS, **mode)
    cache.crop(kind(-4))
    length = cache.get_seq_length()
    assert type(length) is int and length == WINDOW + SINKS - 4
    fresh = patches.WindowedCache(model.config)
    continuation(model, fresh, tokens[:, :-4])
    torch.testing.assert_close(
        continuation(model, cache, tokens[:, :5]), continuation(model, fresh, tokens[:, :5])
    )


@MODES
def test_crop_after_the_ring_wrapped_is_refused_and_changes_nothing(mode):
    model = windowed_model("llama")
    cache, _ = fill(model, WINDOW + SINKS + 1, **mode)
    with pytest.raises(
        patches.PolicyError, match=f"cannot go back to {WINDOW + SINKS} of {WINDOW + SINKS + 1} tokens"
    ):
        cache.crop(-1)
    assert {layer.get_seq_length() for layer in cache.layers} == {WINDOW + SINKS + 1}


@MODES
@pytest.mark.parametrize("reset", [False, True])
def test_crop_of_an_empty_cache_does_nothing(reset, mode):
    model = windowed_model("llama")
    cache, tokens = patches.WindowedCache(model.config, **mode), torch.randint(3, 90, (1, 30))
    if reset:
        cache, tokens = fill(model, 30, **mode)
        cache.reset()
    cache.crop(-5)
    torch.testing.assert_close(
        continuation(model, cache, tokens), continuation(model, patches.WindowedCache(model.config), tokens)
    )


@MODES
@pytest.mark.parametrize("change", ["repeat", "select", "reorder"])
def test_batch_operations_move_whole_rows(change, mode):
    model = windowed_model("llama")
    tokens, mask = torch.randint(3, 90, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[1, :6] = 0
    cache = patches.WindowedCache(model.config, **mode)
    with torch.no_grad():
        model(tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
    rows = {"repeat": [0, 0, 1, 1], "select": [1], "reorder": [1, 0]}[change]
    if change == "repeat":
        cache.batch_repeat_interleave(2)
    elif change == "select":
        cache.batch_select_indices(torch.tensor([1]))
    else:
        cache.reorder_cache(torch.tensor([1, 0]))
    fresh = patches.WindowedCache(model.config)
    with torch.no_grad():
        model(tokens[rows], attention_mask=mask[rows], past_key_values=fresh, use_cache=True)
    token = torch.full((len(rows), 1), 7)
    torch.testing.assert_close(continuation(model, cache, token), continuation(model, fresh, token))


@MODES
def test_crop_below_where_a_row_begins(mode):
    model = windowed_model("llama")
    tokens, mask = torch.randint(3, 90, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, :6] = 0
    cache, fresh = (patches.WindowedCache(model.config, **mode) for _ in range(2))
    with torch.no_grad():
        model(tokens, attention_mask=mask, past_key_values=cache)
        cache.crop(-5)
        for column in range(4, 9):
            part = slice(column, column + 1)
            got = model(tokens[:, part], attention_mask=mask[:, : column + 1], past_key_values=cache).logits
        want = model(tokens, attention_mask=mask, past_key_values=fresh).logits[:, -1:]
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


@MODES
def test_a_cache_filled_under_inference_mode_serves_outside_of_it(mode):
    model = windowed_model("llama")
    with torch.inference_mode():
        cache = patches.WindowedCache(model.config, **mode)
        model(torch.arange(3, 9)[None], past_key_values=cache)
    assert continuation(model, cache, torch.tensor([[7]])).shape[1] == 1


def test_reset_forgets():
    model = windowed_model("llama")
    cache, tokens = fill(model, 30)
    cache.reset()
    assert cache.get_seq_length() == 0
    torch.testing.assert_close(
        continuation(model, cache, tokens), continuation(model, patches.WindowedCache(model.config), tokens)
    )
