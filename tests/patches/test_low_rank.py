"""``low-rank``: what is read is what was projected, bases come when the rule says, budgets hold."""

import pytest
import torch

import patches
from patches.attention import eager, sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache.low_rank import LowRankLayer
from patches.cache.policies import parse
from patches.cache.policies.policy import Place, Tokens
from patches.frame import Frame, Step
from patches.policy import PolicyError
from tests.patches.test_memory import allocations, peak
from tests.patches.tiny import windowed_model

HEADS, KV_HEADS, DIM, SINKS, RESIDUAL, RANK = 4, 2, 12, 3, 8, 5
PLAIN = Scoring(0.3)


def layer(rank=RANK, **options):
    return LowRankLayer(SINKS, RESIDUAL, lambda *_: rank, **options)


def draw(tokens, seed=0):
    """Queries, keys and values of ``tokens`` tokens in two rows, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, heads, tokens, DIM, generator=generator, dtype=torch.float64)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]


def read(held, tokens, cuts, starts=None, scoring=PLAIN):
    """Attention outputs of all tokens, fed in passes that end at the cuts."""
    outputs = []
    for query, key, value in zip(*(each.tensor_split(list(cuts), dim=2) for each in tokens), strict=True):
        frame = Frame(Step(held.get_seq_length(), starts), query.shape[2], None, 0)
        shown = held.update(key, value, starts=starts)[0].stored
        outputs.append(stored.attend(query, shown, frame, scoring, sdpa.attend))
    return torch.cat(outputs, dim=2)


def in_full(tokens, scoring=PLAIN):
    """The same from a cache that keeps everything."""
    return eager.attend(*tokens, Frame(Step(0), tokens[0].shape[2], None, 0), scoring)[0]


def projection(tokens):
    """On the first right singular vectors, ``[K, D, D]`` from ``[K, N, D]``."""
    directions = torch.linalg.svd(tokens, full_matrices=False).Vh[:, :RANK]
    return directions.transpose(1, 2) @ directions


@pytest.mark.parametrize("scoring", [PLAIN, Scoring(0.3, softcap=2.0)])
@pytest.mark.parametrize("begin", [0, 4])
def test_old_tokens_are_read_as_their_projection_by_the_whole_prompt(begin, scoring):
    prompt, total = 20, 40
    tokens = draw(total)
    starts = torch.tensor([0, begin]) if begin else None
    outputs = read(layer(), tokens, range(prompt, total), starts, scoring)
    for row, first in enumerate((0, begin)):
        query, key, value = (each[row : row + 1, :, first:] for each in tokens)
        bases = [projection(each[0, :, SINKS : prompt - first]) for each in (key, value)]
        for at in range(prompt - first, total - first):
            known = [each[:, :, : at + 1].clone() for each in (key, value)]
            old = slice(SINKS, max(SINKS, at - RESIDUAL))
            for each, basis in zip(known, bases, strict=True):
                each[:, :, old] = each[:, :, old] @ basis
            frame = Frame(Step(at), 1, None, 0)
            expected, _ = eager.attend(query[:, :, at : at + 1], *known, frame, scoring)
            got = outputs[row : row + 1, :, first + at : first + at + 1]
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cuts", [[], [30], [5, 6, 9, 25, 41], range(1, 60)])
def test_what_lies_in_few_directions_is_read_exactly(cuts):
    query, *others = draw(60)
    directions = draw(RANK, seed=1)[1][0]
    tokens = [query, *(each[..., :RANK] @ directions for each in others)]
    torch.testing.assert_close(read(layer(), tokens, cuts), in_full(tokens), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cuts", [[], [11, 12], range(1, 60)])
def test_with_every_direction_it_is_the_full_cache(cuts):
    tokens = draw(60)
    held = layer(rank=DIM)
    torch.testing.assert_close(read(held, tokens, cuts), in_full(tokens), rtol=1e-9, atol=1e-9)
    assert not [name for name in held.parts if "bases" in name]


def test_bases_come_when_a_row_outgrows_sinks_and_residual_and_then_stay():
    tokens, held = draw(60), layer()
    starts = torch.tensor([0, 5])
    fitted = []
    for at in range(30):
        read(held, [each[:, :, at : at + 1] for each in tokens], [], starts)
        bases = held.parts.get("key bases", torch.zeros(2, 1))
        fitted.append([bool(each.any()) for each in bases])
    full = SINKS + RESIDUAL
    assert [row.index(True) for row in zip(*fitted, strict=True)] == [full, full + 5]
    before = held.parts["key bases"]
    read(held, [each[:, :, 30:] for each in tokens], [], starts)
    assert held.parts["key bases"] is before


def test_the_latest_tokens_can_be_taken_back_and_no_others():
    tokens, held = draw(60), layer()
    wanted = read(layer(), tokens, [30, *range(31, 60)])
    read(held, [each[:, :, :30] for each in tokens], [])
    read(held, [each[:, :, 40:44] for each in tokens], [])
    held.crop(-4)
    assert held.get_seq_length() == 30
    got = read(held, [each[:, :, 30:] for each in tokens], range(1, 30))
    # Until the latest tokens are as many again, four of them are read projected.
    torch.testing.assert_close(got[:, :, RESIDUAL:], wanted[:, :, 30 + RESIDUAL :], rtol=1e-6, atol=1e-6)
    with pytest.raises(PolicyError, match="cannot go back to 51 of 60 tokens"):
        held.crop(-9)
    assert held.get_seq_length() == 60


def test_a_step_expands_nothing():
    tokens = draw(4000)
    held = layer()
    read(held, tokens, [])
    step = [each[:, :, -1:] for each in tokens]
    read(held, step, [])
    whole = 2 * 2 * KV_HEADS * 4000 * DIM * 8
    assert peak(allocations(lambda: read(held, step, []))) < whole / 8


SHAPE = {"kv_heads": 2, "head_dim": 16, "element_bytes": 2, "place": Place(0, None, 0, 3)}


@pytest.mark.parametrize("bases", ["prompt", "calibration"])
def test_a_budget_is_never_exceeded_and_nearly_used(bases):
    given = f"low-rank:budget=40KiB,tokens=300,bases={bases},residual=16"
    choice = parse(given, "global")
    held = [3 * choice.nbytes(Tokens(length, **SHAPE)) for length in range(301)]
    one_more = 3 * 2 * 2 * 2 * (320 + 16)
    assert max(held) == held[300] <= 40 * 1024 < held[300] + one_more
    assert choice.spec == given.replace(",bases=prompt", "")
    assert choice.options.rank_of(Tokens(0, 2, 4, 2, SHAPE["place"])) == 4


def test_a_budget_is_kept_by_what_is_allocated_and_refuses_more_tokens():
    choice = parse("low-rank:budget=40KiB,tokens=300,residual=16", "global")
    held = choice.make(SHAPE["place"])
    for count in (100, 50, *[1] * 100, 50):
        states = torch.randn(1, 2, count, 16).bfloat16()
        held.update(states, states)
        assert held.nbytes == choice.nbytes(Tokens(held.get_seq_length(), **SHAPE)) <= 40 * 1024 // 3
    with pytest.raises(PolicyError, match="301 tokens: the budget is for tokens=300"):
        held.update(states[:, :, :1], states[:, :, :1])


@pytest.mark.parametrize(
    "spec,said",
    [
        ("rank=0", "rank=0 must be a whole number, at least 1"),
        ("bases=svd", "bases='svd' must be one of: prompt, calibration"),
        ("residual=0", "residual=0 must be"),
        ("sinks=-1", "sinks=-1 must be"),
        ("budget=1MiB", "give rank, or budget and the tokens that it is for"),
        ("tokens=100", "give rank, or budget and the tokens"),
        ("rank=4,budget=1MiB,tokens=9", "give rank, or budget"),
        ("budget=1Mb,tokens=9", "budget='1Mb' must be bytes such as 64MiB"),
        ("budget=0,tokens=9", "budget=0 must be bytes"),
        ("budget=1MiB,tokens=0", "tokens=0 must be"),
        ("window=3", "low-rank has no window"),
    ],
)
def test_refusals_say_what_is_allowed(spec, said):
    with pytest.raises(PolicyError, match=said):
        parse(f"low-rank:{spec}", "global")


def test_what_only_the_model_shows_is_refused_with_the_first_tokens():
    model = windowed_model("llama")
    for spec, said in (
        ("low-rank:rank=13", "rank=13 must be at most the model's head_dim of 12"),
        ("low-rank:budget=100B,tokens=1000", "has no room for tokens=1000 in 1 layers; "),
    ):
        with pytest.raises(PolicyError, match=said):
            model(torch.tensor([[5]]), past_key_values=patches.make_cache(model, spec))
    with pytest.raises(PolicyError, match="no policy 'low-rank' for window layers"):
        patches.make_cache(model, "full", "low-rank")
