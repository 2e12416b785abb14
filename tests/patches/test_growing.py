"""A growing layer holds what transformers' own holds, in memory whose size is known beforehand."""

import random

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from convert.caches.room import room as counted
from patches.cache.growing import GrowingLayer
from patches.cache.layout import LAYOUTS
from patches.cache.room import room
from tests.patches.test_memory import allocations, peak

HEADS, DIM = 2, 4
EITHER = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def draw(rows, tokens, seed=0):
    states = torch.randn(2, rows, HEADS, tokens, DIM, generator=torch.Generator().manual_seed(seed))
    return states.unbind()


def filled(tokens, layout=None):
    layer = GrowingLayer(layout)
    layer.update(*draw(1, tokens))
    return layer


def held_bytes(layer):
    return sum(store.untyped_storage().nbytes() for store in layer.stores)


@pytest.mark.parametrize(
    "tokens,columns",
    [
        (0, 0), (1, 16), (16, 16), (17, 32), (500, 512), (513, 528), (1024, 1024), (1025, 1056), (4095, 4096),
        (4097, 4224), (131072, 131072), (131073, 135168),
    ],
)  # fmt: skip
def test_room_at_known_lengths(tokens, columns):
    assert room(tokens) == columns


def test_room_depends_on_the_tokens_alone_and_convert_counts_the_same():
    drawn = random.Random(0)
    for tokens in [*range(3000), *(drawn.randrange(2**40) for _ in range(2000))]:
        columns = room(tokens)
        assert counted(tokens) == columns >= tokens
        assert columns - tokens < max(16, tokens / 32)
        # However a layer comes to hold ``tokens``, it grows to the same room.
        assert room(columns) == columns and room(drawn.randint(tokens, columns)) == columns


@EITHER
@pytest.mark.parametrize(
    "chunks",
    [[1] * 70, [40, 1, 1, 30, 1], [16, 1], [3, 600, 1, 7]],
    ids=["tokens", "turns", "full", "chunks"],
)
def test_it_hands_out_what_the_layer_of_transformers_does(chunks, layout):
    layer, want = GrowingLayer(layout), DynamicLayer()
    for turn, tokens in enumerate(chunks):
        states = draw(2, tokens, turn)
        for got, expected in zip(layer.update(*states), want.update(*states), strict=True):
            assert torch.equal(got, expected)
        length = sum(chunks[: turn + 1])
        assert layer.get_seq_length() == length and layer.get_mask_sizes(5) == (length + 5, 0)
        assert held_bytes(layer) == 2 * 2 * HEADS * DIM * 4 * room(length)


@EITHER
def test_nothing_moves_within_a_room(layout):
    layer = filled(513, layout)
    places = [store.data_ptr() for store in layer.stores]
    for _ in range(528 - 513):
        views = layer.update(*draw(1, 1))
        assert [view.data_ptr() for view in views] == places
    layer.crop(-9)
    layer.update(*draw(1, 9))
    assert [store.data_ptr() for store in layer.stores] == places
    layer.update(*draw(1, 1))
    assert not set(places) & {store.data_ptr() for store in layer.stores}


def test_growing_holds_the_old_and_the_new_room_of_one_tensor():
    layer, prompt, token = GrowingLayer(), draw(1, 1024), draw(1, 1)

    def work():
        layer.update(*prompt)
        layer.update(*token)

    sizes = allocations(work)
    old, new = (columns * HEADS * DIM * 4 for columns in (1024, room(1025)))
    assert sum(sizes) == held_bytes(layer) == 2 * new
    # New keys, then the old keys go, then new values beside the old ones.
    assert peak(sizes) == old + 2 * new


@EITHER
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: layer.crop(-7),
        lambda layer: layer.reorder_cache(torch.tensor([2, 0, 0])),
        lambda layer: layer.batch_repeat_interleave(2),
        lambda layer: layer.batch_select_indices(torch.tensor([2, 1])),
        lambda layer: layer.batch_select_indices(torch.tensor([True, False, True])),
    ],
    ids=["crop", "reorder", "repeat", "select", "mask"],
)
def test_changes_are_those_of_the_layer_of_transformers(change, layout):
    layer, want = GrowingLayer(layout), DynamicLayer()
    change(layer)
    for each in (layer, want):
        each.update(*draw(3, 40))
        change(each)
    for turn in range(1, 20):
        states = draw(len(want.keys), 1, turn)
        for got, expected in zip(layer.update(*states), want.update(*states), strict=True):
            assert torch.equal(got, expected)


def test_more_is_cropped_than_there_is():
    layer = filled(5)
    layer.crop(-9)
    assert layer.get_seq_length() == 0 and layer.update(*draw(1, 3))[0].shape[2] == 3


def test_reset_gives_up_the_memory_and_any_batch_may_follow():
    layer = filled(100)
    layer.reset()
    assert layer.keys is None and layer.values is None and layer.get_seq_length() == 0
    layer.update(*draw(3, 5))
    assert layer.update(*draw(3, 1))[0].shape == (3, HEADS, 6, DIM)


def test_new_tokens_have_gradients_and_cached_ones_are_constants():
    layer = GrowingLayer()
    before, new = (tuple(each.requires_grad_() for each in draw(1, tokens)) for tokens in (6, 2))
    for keys, values in (layer.update(*before), layer.update(*new)):
        (keys.sum() + 3 * values.sum()).backward()
    for states in (before, new):
        assert states[0].grad.eq(1).all() and states[1].grad.eq(3).all()
    with torch.no_grad():
        assert layer.update(*draw(1, 1))[0].data_ptr() == layer.stores[0].data_ptr()
