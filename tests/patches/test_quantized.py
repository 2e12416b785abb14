"""Layers of codes: which tokens they are, that they never change, and what they may hold at once."""

import pytest
import torch

import patches
from patches.attention import sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache import quantization
from patches.cache.codes import KEY_CODES, KEY_GRIDS, VALUE_CODES, VALUE_GRIDS, Coding
from patches.cache.policies.policy import Place
from patches.cache.quantization import Options
from patches.cache.stored import PIECE
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step
from tests.patches.test_memory import TOKEN_BYTES, allocations, long_model, peak

CODED = (KEY_CODES, KEY_GRIDS, VALUE_CODES, VALUE_GRIDS)
HEADS, KV_HEADS, DIM, SINKS, WINDOW = 4, 2, 12, 2, 30
OPTIONS = Options(block=4, group=5, residual=6, sinks=SINKS)
GLOBAL, RING = Place(0, None, 0, 1), Place(0, WINDOW, SINKS, 1)
PLACES = pytest.mark.parametrize("place", [GLOBAL, RING], ids=["global", "window"])
BITS = pytest.mark.parametrize("bits", [8, 4])
CHUNKS = [(1,) * 90, (90,), (13, 1, 1, 40, 1, 1, 1, 7, 25), (5, 85)]


def draw(tokens, rows=1, seed=0):
    return torch.randn(2, rows, KV_HEADS, tokens, DIM, generator=torch.Generator().manual_seed(seed))


def filled(layer, tokens, chunks, begins=None):
    """The layer, once the tokens have come in passes of so many."""
    starts = None if begins is None else torch.tensor(begins)
    for part in tokens.split(chunks, dim=3):
        layer.update(*part, starts=starts, begins=begins)
    return layer


def approximated(tokens, bits, coded):
    """Tokens of one row of which ``coded`` behind the sinks have been codes."""
    low, high = SINKS, SINKS + coded
    coding = Coding(bits, OPTIONS.block, OPTIONS.group)
    middle = (
        coding.decode(coding.encode(*tokens[..., low:high, :]), tokens.dtype)
        if coded
        else tokens[..., low:low, :]
    )
    return torch.cat([tokens[..., :low, :], torch.stack(list(middle)), tokens[..., high:, :]], dim=3)


@BITS
@PLACES
@pytest.mark.parametrize("chunks", CHUNKS, ids=["decode", "prefill", "mixed", "chunks"])
@pytest.mark.parametrize("begins", [None, (0, 3, 60)], ids=["alone", "padded"])
def test_queries_meet_exactly_what_the_lengths_say(bits, place, chunks, begins):
    """Attention over what is shown equals attention over tokens that were coded by hand, row by row."""
    rows = 1 if begins is None else len(begins)
    tokens, query = draw(90, rows), torch.randn(rows, HEADS, 90, DIM)
    layer, starts = quantization.make(bits, OPTIONS, place), None if begins is None else torch.tensor(begins)
    at, scoring = 0, Scoring(0.3)
    for count in chunks:
        held = layer.update(*tokens[:, :, :, at : at + count], starts=starts, begins=begins)[0].stored
        frame = Frame(Step(at, starts), count, place.window, place.sinks)
        got = stored.attend(query[:, :, at : at + count], held, frame, scoring, sdpa.attend)
        at += count
        for row, begin in enumerate(begins or (0,)):
            if at <= begin:
                continue
            past = max(at - count - begin, 0)
            coded = max(past - SINKS - OPTIONS.residual, 0) // OPTIONS.block * OPTIONS.block
            own = approximated(tokens[:, row : row + 1, :, begin:at], bits, coded)
            whole = Frame(Step(0), at - begin, place.window, place.sinks)
            wanted = sdpa.attend(query[row : row + 1, :, begin:at], *own, whole, scoring)[0][:, :, past:]
            answer = got[row : row + 1, :, -wanted.shape[2] :]
            torch.testing.assert_close(answer, wanted, rtol=1e-5, atol=1e-5)


@BITS
@PLACES
def test_codes_never_change(bits, place):
    layer, tokens = quantization.make(bits, OPTIONS, place), draw(120, 3)
    begins, seen = (0, 3, 60), {}
    room = OPTIONS.block * -(-(WINDOW - OPTIONS.residual) // OPTIONS.block)
    for past in range(120):
        layer.update(*tokens[:, :, :, past : past + 1], starts=torch.tensor(begins), begins=begins)
        for row, begin in enumerate(begins):
            due = max(past + 1 - begin - SINKS - OPTIONS.residual, 0) // OPTIONS.block
            oldest = 0 if place.window is None else max(due - room // OPTIONS.block, 0)
            for block in range(oldest, due):
                slot = block if place.window is None else block % (room // OPTIONS.block)
                cut = slice(slot * OPTIONS.block, (slot + 1) * OPTIONS.block)
                found = [layer.parts[name][row, :, cut] for name in (KEY_CODES, VALUE_CODES, VALUE_GRIDS)]
                found.append(layer.parts[KEY_GRIDS][row, :, slot])
                before = seen.setdefault((row, block), [part.clone() for part in found])
                assert all(torch.equal(*pair) for pair in zip(before, found, strict=True)), (past, row, block)
    assert len(seen) == sum((120 - begin - SINKS - OPTIONS.residual) // OPTIONS.block for begin in begins)


@BITS
@PLACES
def test_parts_do_not_depend_on_how_tokens_came(bits, place):
    tokens = draw(90, 2)
    layers = [filled(quantization.make(bits, OPTIONS, place), tokens, chunks) for chunks in CHUNKS]
    for other in layers[1:]:
        for name in CODED:
            assert torch.equal(layers[0].parts[name], other.parts[name]), name


@BITS
@PLACES
@pytest.mark.parametrize("room", [0, 1, 20])
def test_a_crop_leaves_what_a_shorter_text_leaves_or_is_refused(bits, place, room):
    """Back by every number of tokens, from every length, and on from there."""
    options, tokens, more, went = Options(4, 5, 6 + room, SINKS), draw(70), draw(9, seed=1), 0
    for length in (3, 12, 33, 52, 70):
        for kept in range(length + 1):
            layer = filled(quantization.make(bits, options, place), tokens[..., :length, :], (length,))
            try:
                layer.crop(kept - length)
            except patches.PolicyError as error:
                assert f"cannot go back to {kept} of {length} tokens" in str(error)
                assert layer.get_seq_length() == length and kept < length
                continue
            went += 1
            twin = quantization.make(bits, options, place)
            if kept:
                filled(twin, tokens[..., :kept, :], (kept,))
            passes = [each.update(*more) for each in (layer, twin)]
            frame, query = Frame(Step(kept), 9, place.window, place.sinks), torch.randn(1, HEADS, 9, DIM)
            outputs = [read(query, got, frame) for got in passes]
            torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
            assert layer_bytes(layer) == layer_bytes(twin)
    assert went > 5 + 12 + 1


def read(query, passed, frame):
    """Attention over what ``update`` gave."""
    if hasattr(passed[0], "stored"):
        return stored.attend(query, passed[0].stored, frame, Scoring(0.3), sdpa.attend)
    return sdpa.attend(query, *passed, frame, Scoring(0.3))[0]


def layer_bytes(layer):
    return layer.stores[0].nbytes if isinstance(layer, WindowLayer) else layer.nbytes


def test_a_window_that_the_exact_tokens_fill_is_an_exact_ring():
    assert type(quantization.make(4, Options(block=4, residual=26), RING)) is WindowLayer
    assert type(quantization.make(4, Options(block=4, residual=25), RING)) is not WindowLayer


@pytest.mark.parametrize(
    "said",
    ["block=0", "group=0", "residual=-1", "sinks=-1", "block=4.5", "bits=2"],
)
def test_settings_out_of_range_are_refused(said):
    with pytest.raises(patches.PolicyError, match=f"cache 'int4:{said}'"):
        patches.make_cache(long_model([0, 1]), f"int4:{said}")


CONTEXT = 8 * PIECE


@pytest.mark.parametrize("policy", ["int8", "int4"])
def test_a_decode_step_expands_one_piece_however_long_the_text_is(policy):
    model, peaks = long_model([0, 1]), []
    token = torch.full((1, 1), 5)
    for length in (CONTEXT // 2, CONTEXT):
        cache = patches.make_cache(model, policy)
        with torch.no_grad():
            model(torch.full((1, length), 5), past_key_values=cache, logits_to_keep=1)
            model(token, past_key_values=cache)
            peaks.append(peak(allocations(lambda cache=cache: model(token, past_key_values=cache))))
    assert abs(peaks[1] - peaks[0]) <= 4096
    assert peaks[1] < 4 * PIECE * TOKEN_BYTES


@pytest.mark.parametrize("policy", ["int8", "int4"])
def test_a_prompt_adds_codes_and_one_piece(policy):
    """Beside what a prompt takes without a cache, a layer at a time becomes codes, a piece at a time."""
    model, cache = long_model([0, 1]), None
    tokens = torch.full((1, CONTEXT), 5)
    with torch.no_grad():
        model(tokens[:, :64], past_key_values=patches.make_cache(model, policy))
        bare = peak(allocations(lambda: model(tokens, use_cache=False, logits_to_keep=1)))
        cache = patches.make_cache(model, policy)
        most = peak(allocations(lambda: model(tokens, past_key_values=cache, logits_to_keep=1)))
    assert most - bare <= cache.nbytes + 4 * PIECE * TOKEN_BYTES
