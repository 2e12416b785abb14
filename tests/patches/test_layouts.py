"""Where keys and values lie in memory changes nothing but speed."""

import pytest
import torch

import patches
from patches.cache.growing import GrowingLayer
from patches.cache.layout import HEADS_FIRST, LAYOUTS, TOKENS_FIRST, layout_of
from patches.cache.offloaded import OffloadedLayer
from patches.cache.static import StaticWindowLayer
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step, slot_positions
from tests.patches.test_static import batch, run
from tests.patches.tiny import windowed_model

W, S, HEADS, DIM = 8, 3, 2, 4
EITHER = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def draw(rows, tokens):
    return torch.randn(2, rows, HEADS, tokens, DIM, generator=torch.Generator().manual_seed(0))


def lies_as(store, layout):
    """Whether the axes of ``store`` lie in the order of ``layout``, without gaps but between columns."""
    strides = [store.stride(axis) for axis in layout.axes]
    return strides == sorted(strides, reverse=True) and strides[-1] == 1


@EITHER
def test_memory_is_one_piece_in_the_order_of_its_name(layout):
    with torch.inference_mode():
        store = layout.allocate(2, 3, 5, 7, torch.float16, torch.device("cpu"))
    assert store.shape == (2, 3, 5, 7) and store.dtype == torch.float16 and not store.is_inference()
    assert store.untyped_storage().nbytes() == 2 * 3 * 5 * 7 * 2
    order = {"heads-first": (0, 1, 2, 3), "tokens-first": (0, 2, 1, 3)}[layout.name]
    assert store.permute(order).is_contiguous()


def test_a_cpu_and_cuda_have_a_layout_each():
    assert layout_of(torch.device("cpu")) is HEADS_FIRST and layout_of(torch.device("cuda")) is TOKENS_FIRST
    model = windowed_model("llama")
    for asked, got in ((None, HEADS_FIRST), ("heads-first", HEADS_FIRST), ("tokens-first", TOKENS_FIRST)):
        for mode in ({}, {"max_length": 30}):
            cache = patches.WindowedCache(model.config, layout=asked, **mode)
            run(model, cache, *batch(False), steps=2)
            assert all(lies_as(store, got) for layer in cache.layers for store in layer.stores)


def test_an_unknown_layout_is_refused():
    with pytest.raises(patches.PolicyError, match="layout='rows-first' is not known; choose heads-first or"):
        patches.WindowedCache(windowed_model("llama").config, layout="rows-first")


@EITHER
@pytest.mark.parametrize("starts", [None, [0, 5]], ids=["together", "padded"])
@pytest.mark.parametrize(
    "chunks",
    [[1] * 30, [2, 1, 4, 1, 1, 20, 3], [S + W, 1, W - 1, W], [S + W + 1, W + 1, 1], [40, 1], [1, 2, 50, 1]],
    ids=["tokens", "turns", "full", "over", "prompt", "chunk"],
)
def test_every_slot_holds_its_token_and_every_column_is_what_the_frame_says(chunks, starts, layout):
    begins = None if starts is None else torch.tensor(starts)
    tokens, layer, past = draw(2, sum(chunks)), WindowLayer(W, S, layout), 0
    for count in chunks:
        clipped = None if begins is None else begins.clamp(max=past + count)
        got = layer.update(*tokens[:, :, :, past : past + count], starts=clipped)
        frame = Frame(Step(past, clipped), count, W, S)
        columns = frame.key_positions(got[0].shape[2], torch.device("cpu")).expand(2, -1)
        length = past + count if clipped is None else past + count - clipped
        slots = slot_positions(length, W, S, torch.device("cpu")).expand(2, -1)
        for row in range(2):
            start = 0 if starts is None else starts[row]
            for found, positions in ((got, columns[row]), (layer.stores, slots[row])):
                # Some sinks of a chunk are still to come.
                real = (positions >= 0) & (positions < past + count - start)
                want = tokens[:, row, :, start + positions[real]]
                assert torch.equal(torch.stack([each[row] for each in found])[:, :, real], want)
        past += count


@EITHER
@pytest.mark.parametrize("make", [lambda at: WindowLayer(W, S, at), GrowingLayer, OffloadedLayer])
def test_rows_move_within_their_layout(make, layout):
    layer, states = make(layout), draw(3, 6)
    with torch.inference_mode():
        layer.update(*states)
        layer.reorder_cache(torch.tensor([2, 0, 1]))
        layer.batch_repeat_interleave(2)
        layer.batch_select_indices([5, 0, 3, 2])
    rows = states[:, [1, 2, 0, 0]]
    got = layer.update(*rows[:, :, :, :1])
    assert torch.equal(torch.stack(got), torch.cat([rows, rows[:, :, :, :1]], dim=3))
    assert all(lies_as(each, layout) for each in got)


@EITHER
def test_static_rows_move_in_place(layout):
    cache = patches.WindowedCache(windowed_model("llama").config, max_length=30, layout=layout.name)
    run(windowed_model("llama"), cache, *batch(False), steps=1)
    layer = cache.layers[0]
    assert isinstance(layer, StaticWindowLayer)
    places, before = [store.data_ptr() for store in layer.stores], torch.stack(layer.stores)
    cache.reorder_cache(torch.tensor([2, 0, 0]))
    assert [store.data_ptr() for store in layer.stores] == places
    assert torch.equal(torch.stack(layer.stores), before[:, [2, 0, 0]])
    cache.batch_repeat_interleave(2)
    assert all(lies_as(store, layout) and len(store) == 6 for store in layer.stores)


@pytest.mark.parametrize("make", [lambda: WindowLayer(W, S), GrowingLayer, OffloadedLayer])
def test_a_chunk_has_gradients_and_what_was_cached_before_has_none(make):
    layer, before, new = make(), draw(1, 12).requires_grad_(), draw(1, 5).requires_grad_()
    layer.update(*before)
    sum(handed.sum() for handed in layer.update(*new)).backward()
    assert new.grad.eq(1).all() and before.grad is None


@pytest.mark.parametrize("mode", [{}, {"max_length": 40}, {"offload": True}], ids=str)
def test_gradients_with_a_cache_are_those_without(mode):
    model, (tokens, _) = windowed_model("llama"), batch(False)
    gradients = []
    for cache in (None, patches.WindowedCache(model.config, **mode)):
        loss = model(tokens, past_key_values=cache, use_cache=False, labels=tokens).loss
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mode", [{}, {"max_length": 40}, {"offload": True}], ids=str)
@pytest.mark.parametrize("padded", [False, True])
def test_a_model_writes_the_same_text_in_both(padded, mode):
    model, (tokens, mask) = windowed_model("llama"), batch(padded)
    texts, logits = zip(
        *(
            run(model, patches.WindowedCache(model.config, layout=name, **mode), tokens, mask, steps=20)
            for name in LAYOUTS
        ),
        strict=True,
    )
    assert texts[0].tolist() == texts[1].tolist()
    torch.testing.assert_close(*logits, atol=2e-5, rtol=2e-5)
