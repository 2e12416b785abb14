"""Layers that merge neighbours: nothing is lost where they are equal, sinks and recent tokens stay."""

import pytest
import torch

from patches.attention import sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache.merging import AT_ONCE, merge
from patches.cache.policies import parse
from patches.cache.policies.policy import Place
from patches.frame import Frame, Step
from patches.policy import PolicyError
from tests.patches.test_memory import allocations, peak

HEADS, KV_HEADS, DIM, SINKS, RECENT = 4, 2, 16, 3, 5
PLACE = Place(0, None, 0, 1)
SCALE = 0.7


def layer_of(spec: str):
    return parse(spec, "global").make(PLACE)


def draw(tokens, rows=1, seed=0):
    """Queries, keys and values of a text."""
    torch.manual_seed(seed)
    query = torch.randn(rows, HEADS, tokens, DIM, dtype=torch.float64)
    return query, *torch.randn(2, rows, KV_HEADS, tokens, DIM, dtype=torch.float64)


def attend(layer, query, key, value, starts=None):
    """One pass through a layer and attention, as a model would."""
    past = layer.seen
    read, _ = layer.update(key, value, starts=starts)
    frame = Frame(Step(past, starts), query.shape[2], None, 0)
    return stored.attend(query, read.stored, frame, Scoring(SCALE), sdpa.attend)


def dense(query, key, value, past, times=None):
    """Attention in full of queries after ``past`` keys, the first of which count ``times``."""
    key, value = (each.repeat_interleave(HEADS // KV_HEADS, dim=1) for each in (key, value))
    scores = SCALE * query @ key.transpose(2, 3)
    if times is not None:
        scores[..., :past] += times.double().log().repeat_interleave(HEADS // KV_HEADS, dim=1)[:, :, None]
    later = torch.arange(key.shape[2]) > past + torch.arange(query.shape[2])[:, None]
    return scores.masked_fill(later, -torch.inf).softmax(dim=-1) @ value


def loss(key, counts, at):
    """By how much the squared distances to their mean grow when a token and the next are merged."""
    both = key[at : at + 2], counts[at : at + 2, None].double()
    mean = (both[0] * both[1]).sum(0) / both[1].sum()
    return ((both[0] - mean).square() * both[1]).sum().item()


def test_the_pair_that_loses_least_goes_first():
    _, key, value = draw(30)
    counts = torch.randint(1, 5, (1, KV_HEADS, 30), dtype=torch.int32)
    keys, values, merged = merge(key, value, counts, 29, SINKS, RECENT)
    for head in range(KV_HEADS):
        at = min(range(SINKS, 30 - RECENT - 1), key=lambda i: loss(key[0, head], counts[0, head], i))
        weights = counts[0, head, at : at + 2, None].double()
        for got, whole in ((keys, key), (values, value)):
            mean = (whole[0, head, at : at + 2] * weights).sum(0) / weights.sum()
            wanted = torch.cat([whole[0, head, :at], mean[None], whole[0, head, at + 2 :]])
            torch.testing.assert_close(got[0, head], wanted, rtol=1e-12, atol=1e-12)
        assert merged[0, head].sum() == counts[0, head].sum() and merged[0, head, at] == weights.sum()


@pytest.mark.parametrize("kept", [SINKS + RECENT + 1, 20, 59])
def test_sums_are_kept_and_sinks_and_recent_tokens_are_untouched(kept):
    _, key, value = draw(60, rows=2)
    counts = torch.randint(1, 9, (2, KV_HEADS, 60), dtype=torch.int32)
    keys, values, merged = merge(key, value, counts, kept, SINKS, RECENT)
    assert merged.shape == (2, KV_HEADS, kept) and torch.equal(merged.sum(2), counts.double().sum(2))
    for got, whole in ((keys, key), (values, value)):
        sums = [(each * count[..., None]).sum(2) for each, count in ((got, merged), (whole, counts.double()))]
        torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-10)
        assert torch.equal(got[:, :, :SINKS], whole[:, :, :SINKS])
        assert torch.equal(got[:, :, -RECENT:], whole[:, :, -RECENT:])


PASSES = {"decode": [1] * 200, "whole": [199, 1], "chunks": [40, 90, 1, 1, 68]}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES.keys())
@pytest.mark.parametrize("starts", [None, (0, 90)], ids=str)
def test_equal_neighbours_merge_without_a_loss(passes, starts):
    begins = starts or (0, 0)
    query, _, _ = draw(200, rows=2)
    # Eight different tokens in runs of 25; each row begins at one of them.
    key, value = (torch.randn(2, KV_HEADS, 8, DIM, dtype=torch.float64) for _ in range(2))
    key, value = (each.repeat_interleave(25, dim=2) for each in (key, value))
    layer = layer_of(f"merge:budget=60,sinks={SINKS},recent={RECENT}")
    starting = None if starts is None else torch.tensor(starts)
    parts = [part.split(passes, dim=2) for part in (query, key, value)]
    output = torch.cat([attend(layer, *each, starting) for each in zip(*parts, strict=True)], dim=2)
    for row, begin in enumerate(begins):
        wanted = dense(*(each[row : row + 1, :, begin:] for each in (query, key, value)), 0)
        torch.testing.assert_close(output[row : row + 1, :, begin:], wanted, rtol=1e-6, atol=1e-6)
        assert layer.parts["counts"][row, :, : layer.filled(200 - begin)].sum() == KV_HEADS * (200 - begin)


@pytest.mark.parametrize("tokens", [1, 7, 90])
def test_a_pass_reads_what_was_kept_and_its_own_tokens_as_they_are(tokens):
    query, key, value = draw(40 + tokens)
    layer = layer_of(f"merge:budget=20,sinks={SINKS},recent={RECENT}")
    attend(layer, query[:, :, :40], key[:, :, :40], value[:, :, :40])
    held = {name: part[:, :, : layer.filled(40)].clone() for name, part in layer.parts.items()}
    now = [each[:, :, 40:] for each in (query, key, value)]
    output = attend(layer, *now)
    joined = [
        torch.cat([held[name], new], dim=2) for name, new in zip(("keys", "values"), now[1:], strict=True)
    ]
    wanted = dense(now[0], *joined, layer.filled(40), held["counts"])
    torch.testing.assert_close(output, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("budget,slack", [(20, 0), (64, 2), (320, 10)])
def test_a_full_layer_gives_up_a_few_slots_at_once(budget, slack):
    layer = layer_of(f"merge:budget={budget},sinks={SINKS},recent={RECENT}")
    layer.update(*torch.zeros(2, 1, 1, 1, 4))
    filled = [layer.filled(length) for length in range(-2, 3 * budget)]
    assert filled[: budget + 3] == [0, 0, *range(budget + 1)]
    assert min(filled[budget + 3 :]) == budget - slack and max(filled) == budget
    assert {b - a for a, b in zip(filled[budget + 3 :], filled[budget + 4 :], strict=False)} <= {1, -slack, 0}


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES.keys())
def test_the_same_bytes_from_the_first_token_on_and_the_allocator_agrees(passes):
    query, key, value = draw(200)
    layer = layer_of(f"merge:budget=60,sinks={SINKS},recent={RECENT}")
    parts = [part.split(passes, dim=2) for part in (query, key, value)]
    for each in zip(*parts, strict=True):
        empty = not layer.is_initialized
        kept = sum(allocations(lambda each=each: attend(layer, *each)))
        assert layer.nbytes == KV_HEADS * 60 * (2 * DIM * 8 + 4)
        assert 0 <= kept - layer.nbytes * empty <= 64 * 3
        assert layer.parts["counts"].gt(0).sum(dim=2).max() <= 60


def test_a_step_that_merges_holds_the_slots_twice_and_a_batch_not_more_often():
    torch.manual_seed(0)
    rows, budget, dim = 16, 2048, 32
    layer = layer_of(f"merge:budget={budget},recent=64")
    layer.update(*torch.randn(2, rows, 1, budget, dim))
    peaks = [peak(allocations(lambda: layer.update(*torch.zeros(2, rows, 1, 1, dim)))) for _ in range(2)]
    at_once = AT_ONCE * dim * 4
    assert layer.nbytes <= peaks[0] <= layer.nbytes + 7 * at_once < 2 * layer.nbytes
    assert peaks[1] < layer.nbytes // 100


def test_a_crop_goes_back_while_nothing_is_merged():
    query, key, value = draw(40, rows=2)
    layer = layer_of(f"merge:budget=30,sinks={SINKS},recent={RECENT}")
    starts = torch.tensor([0, 11])

    def attend_to(cut):
        return attend(layer, query[:, :, cut], key[:, :, cut], value[:, :, cut], starts)

    attend_to(slice(20))
    layer.crop(-6)
    assert layer.get_seq_length() == 14
    output = attend_to(slice(14, 25))
    wanted = dense(query[1:, :, 14:25], key[1:, :, 11:25], value[1:, :, 11:25], 3)
    torch.testing.assert_close(output[1:], wanted, rtol=1e-9, atol=1e-9)
    attend_to(slice(25, 40))
    with pytest.raises(PolicyError, match="cannot go back to 39 of 40 tokens"):
        layer.crop(-1)
    layer.crop(0)
