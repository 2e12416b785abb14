"""Attention over a cache that shows itself in pieces: one softmax, whatever the pieces are."""

from dataclasses import dataclass, replace

import pytest
import torch

from patches.attention import eager, sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache.stored import Piece, Stored, StoredTokens
from patches.frame import Frame, Step
from patches.policy import PolicyError

HEADS, KV_HEADS, DIM, SINKS, WINDOW = 4, 2, 16, 3, 20


@dataclass
class Case:
    """Tokens of which ``past`` are stored, cut into pieces at ``cuts``."""

    past: int
    tokens: int
    window: int | None = None
    starts: tuple[int, ...] | None = None
    cuts: tuple[int, ...] = (5, 6, 30)
    shuffled: bool = False

    def __post_init__(self):
        total, rows = self.past + self.tokens, 2
        torch.manual_seed(total)
        self.query = torch.randn(rows, HEADS, self.tokens, DIM, dtype=torch.float64)
        self.key, self.value = torch.randn(2, rows, KV_HEADS, total, DIM, dtype=torch.float64)
        self.starting = None if self.starts is None else torch.tensor(self.starts)
        self.step = Step(self.past, self.starting)
        self.frame = Frame(self.step, self.tokens, self.window, SINKS)

    def pieces(self):
        begins = torch.zeros(2, dtype=torch.int64) if self.starting is None else self.starting
        columns = torch.randperm(self.past) if self.shuffled else torch.arange(self.past)
        for low, high in zip((0, *self.cuts), (*self.cuts, self.past), strict=True):
            part = columns[low : min(high, self.past)]
            if len(part):
                positions = (part - begins[:, None])[:, None]
                yield Piece(self.key[:, :, part], self.value[:, :, part], positions)

    def stored(self, **more):
        new = (self.key[:, :, self.past :], self.value[:, :, self.past :])
        return Stored(self.past, self.starting, new, self.pieces, **more)

    def expected(self, scoring):
        """Eager over everything in order, as without a window's layouts."""
        whole = Frame(replace(self.step, past=0), self.past + self.tokens, self.window, SINKS)
        query = torch.cat([torch.zeros(2, HEADS, self.past, DIM, dtype=torch.float64), self.query], dim=2)
        if scoring.sink_query is not None:
            scoring = replace(
                scoring, sink_query=torch.cat([query[:, :, : self.past], scoring.sink_query], 2)
            )
        output, weights = eager.attend(query, self.key, self.value, whole, scoring)
        return output[:, :, self.past :], weights[:, :, self.past :]

    def real(self, output):
        """Without queries of padding, of which backends say different things."""
        positions = self.frame.query_positions(output.device)
        return output * (positions >= 0).expand(2, -1)[:, None, :, None]


CASES = [
    Case(40, 1), Case(40, 7), Case(3, 1200), Case(40, 1, shuffled=True), Case(40, 1, WINDOW),
    Case(40, 9, WINDOW, shuffled=True), Case(40, 30, WINDOW), Case(2, 30, WINDOW),
    Case(40, 1, None, (0, 11)), Case(40, 9, None, (0, 11)), Case(40, 9, WINDOW, (0, 38)),
    Case(40, 5, None, (0, 43)),
]  # fmt: skip
SCORINGS = {
    "plain": Scoring(0.25),
    "softcap": Scoring(0.25, softcap=1.5),
    "logits": Scoring(0.25, sink_logits=torch.linspace(-1, 1, HEADS, dtype=torch.float64)),
}


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS.keys())
@pytest.mark.parametrize("case", CASES, ids=str)
def test_one_softmax_over_all_pieces(case, scoring):
    output = stored.attend(case.query, case.stored(), case.frame, scoring, sdpa.attend)
    expected, _ = case.expected(scoring)
    torch.testing.assert_close(case.real(output), case.real(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.window is not None], ids=str)
def test_sinks_meet_queries_of_their_own(case):
    scoring = Scoring(0.25, sink_query=torch.randn_like(case.query))
    output = stored.attend(case.query, case.stored(), case.frame, scoring, sdpa.attend)
    torch.testing.assert_close(case.real(output), case.real(case.expected(scoring)[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_weight_that_each_key_received_is_exact(case):
    seen = []
    stored.attend(case.query, case.stored(observe=seen.extend), case.frame, Scoring(0.25), sdpa.attend)
    _, weights = case.expected(Scoring(0.25))
    real = (case.frame.query_positions(weights.device) >= 0).expand(2, -1)[:, None, :, None]
    expected = (weights * real).sum(dim=2).unflatten(1, (KV_HEADS, -1)).sum(dim=2).float()
    in_order = torch.cat(list(seen), dim=2)
    if not case.shuffled:
        torch.testing.assert_close(in_order, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_order.sum(dim=2), expected.sum(dim=2), rtol=1e-5, atol=1e-5)


def test_a_token_that_stands_for_several_counts_as_often():
    case = Case(40, 1)
    times = torch.randint(1, 4, (40,))
    case.key, case.value = (
        torch.cat([t[:, :, :40].repeat_interleave(times, 2), t[:, :, 40:]], 2) for t in (case.key, case.value)
    )
    merged = Stored(
        40, None, (case.key[:, :, -1:], case.value[:, :, -1:]),
        lambda: iter([Piece(*(t[:, :, times.cumsum(0) - 1] for t in (case.key, case.value)),
                            None, times.log().float().expand(2, KV_HEADS, -1))]),
    )  # fmt: skip
    output = stored.attend(case.query, merged, case.frame, Scoring(0.25), sdpa.attend)
    long = Frame(Step(int(times.sum())), 1, None, 0)
    expected, _ = eager.attend(case.query, case.key, case.value, long, Scoring(0.25))
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


def test_gradients_of_queries_pass_through():
    case = Case(40, 7)
    case.query.requires_grad_()
    stored.attend(case.query, case.stored(), case.frame, Scoring(0.25), sdpa.attend).sum().backward()
    found, case.query.grad = case.query.grad, None
    case.expected(Scoring(0.25))[0].sum().backward()
    torch.testing.assert_close(found, case.query.grad, rtol=1e-9, atol=1e-9)


def test_what_only_our_attention_can_read_says_so():
    tokens = StoredTokens(Case(40, 2).stored())
    assert tokens.shape == (2, KV_HEADS, 42, DIM) and tokens.dtype == torch.float64
    with pytest.raises(PolicyError, match="only attention of Headroom can"):
        tokens + 1


def test_dropout_is_refused():
    case = Case(40, 1)
    with pytest.raises(PolicyError, match="no dropout"):
        stored.attend(case.query, case.stored(), case.frame, Scoring(0.25, dropout=0.1), sdpa.attend)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_queries_and_values_of_two_types_as_under_autocast(window):
    case = Case(40, 5, window)
    want = case.expected(Scoring(0.25))[0]
    case.query, case.key, case.value = case.query.float(), case.key.float(), case.value.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = stored.attend(case.query, case.stored(), case.frame, Scoring(0.25), sdpa.attend)
    torch.testing.assert_close(got.double(), want, atol=0.05, rtol=0.05)
