"""The decode kernel in Triton's interpreter: every fill of a ring, every group size, against float64."""

import pytest
import torch

from patches.attention import decode, eager
from patches.attention.explicit import products, weigh
from patches.attention.scoring import Scoring
from patches.cache.layout import HEADS_FIRST, LAYOUTS, TOKENS_FIRST
from patches.cache.window import WindowLayer
from patches.frame import Frame, Step
from patches.kernels import language
from patches.kernels.decode import decode as attend_split
from patches.kernels.write import write_token
from patches.policy import WindowPolicy
from tests.patches.tiny import windowed_model

pytestmark = [
    pytest.mark.skipif(language.missing() is not None, reason=f"kernels: {language.missing()}"),
    pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WINDOW, SINKS = 61, 3


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def stored(batch, columns, kv_heads, dim, begins, ends, layout=TOKENS_FIRST):
    """Keys and values as a cache stores them, with NaN wherever nothing is filled."""
    stores = [
        layout.allocate(batch, kv_heads, columns, dim, torch.float32, torch.device(DEVICE)) for _ in range(2)
    ]
    for store, drawn in zip(stores, draw(2, batch, kv_heads, columns, dim, seed=1), strict=True):
        store.copy_(drawn)
        for row in range(batch):
            store[row, :, : begins[row]] = torch.nan
            store[row, :, ends[row] :] = torch.nan
    return stores


def wanted(query, stores, begins, ends, sinks, scoring):
    """The same in float64, over keys that hold no NaN."""
    key, value = (store.double().nan_to_num() for store in stores)
    column = torch.arange(key.shape[2], device=DEVICE)
    seen = torch.stack([(column >= a) & (column < b) for a, b in zip(begins, ends, strict=True)])[:, None]
    scores = products(query.double(), key)
    if scoring.sink_query is not None:
        met = products(scoring.sink_query.double(), key)
        scores = torch.where(column < sinks, met, scores)
    return weigh(scores, value, seen, scoring)[0]


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """What a kernel does not write is NaN."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))


def check(query, stores, begins, ends, sinks, scoring, splits, tolerance=2e-6):
    starts, stops = (torch.tensor(numbers, device=DEVICE) for numbers in (begins, ends))
    got = attend_split(
        query, *stores, starts if any(begins) else None, stops - 1, sinks, scoring.scale, scoring.softcap,
        scoring.sink_logits, scoring.sink_query, splits,
    )  # fmt: skip
    want = wanted(query, stores, begins, ends, sinks, scoring)
    assert got.dtype == query.dtype and got.shape == query.shape
    assert (got.double() - want).norm() / want.norm() < tolerance


@pytest.mark.parametrize("length", [1, SINKS, SINKS + WINDOW - 1, SINKS + WINDOW])
@pytest.mark.parametrize("splits,layout", [(1, TOKENS_FIRST), (2, HEADS_FIRST), (4, TOKENS_FIRST)])
def test_every_fill_of_a_ring(length, splits, layout):
    query, begins, ends = draw(2, 4, 1, 32), [0, 0], [length, SINKS + WINDOW]
    stores = stored(2, SINKS + WINDOW, 2, 32, begins, ends, layout)
    check(query, stores, begins, ends, SINKS, Scoring(32**-0.5), splits)


@pytest.mark.parametrize("heads,kv_heads,dim", [(2, 2, 48), (4, 1, 64), (8, 1, 128), (32, 1, 40)])
def test_groups_and_head_dims(heads, kv_heads, dim):
    query, begins, ends = draw(1, heads, 1, dim), [0], [40]
    stores = stored(1, 48, kv_heads, dim, begins, ends)
    check(query, stores, begins, ends, SINKS, Scoring(dim**-0.5), 2)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    "softcap,logits,turned",
    [(2.0, False, False), (None, True, False), (None, False, True), (3.0, True, True)],
)
def test_softcap_sink_logits_and_a_sink_query(softcap, logits, turned, splits):
    query, begins, ends = draw(2, 4, 1, 32), [0, 0], [2, 50]
    scoring = Scoring(
        0.3, softcap=softcap, sink_logits=draw(4, seed=2) if logits else None,
        sink_query=draw(2, 4, 1, 32, seed=3) if turned else None,
    )  # fmt: skip
    check(query, stored(2, 50, 2, 32, begins, ends), begins, ends, SINKS, scoring, splits)


@pytest.mark.parametrize("splits", [1, 4])
def test_columns_of_padded_rows(splits):
    query, begins, ends = draw(3, 4, 1, 32), [0, 33, 69], [70, 70, 70]
    check(query, stored(3, 90, 2, 32, begins, ends), begins, ends, 0, Scoring(0.2), splits)


@pytest.mark.parametrize("logits", [False, True])
def test_a_row_without_a_column_gets_zeros(logits):
    query, stores = draw(1, 2, 1, 16), stored(1, 20, 1, 16, [0], [0])
    none = torch.full((1,), -1, device=DEVICE)
    sink_logits = draw(2) if logits else None
    got = attend_split(query, *stores, None, none, 0, 1.0, None, sink_logits, None, 2)
    assert (got == 0).all()


def test_low_precision():
    query, begins, ends = draw(2, 8, 1, 64).half(), [0, 0], [60, 7]
    stores = [store.half() for store in stored(2, 64, 2, 64, begins, ends)]
    check(query, stores, begins, ends, SINKS, Scoring(0.125), 2, tolerance=1e-3)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("starts", [None, [0, 5]])
@pytest.mark.parametrize("past", [1, 12, 40])
def test_the_layouts_of_a_step_equal_the_reference(past, starts, layout):
    window, sinks = 8, 3
    begins = None if starts is None else torch.tensor(starts, device=DEVICE).clamp(max=past)
    policy = WindowPolicy(window, sinks, "absolute", ())
    tokens = draw(2, 2, 2, past + 1, 16)
    layer = WindowLayer(window, sinks, layout)
    layer.update(*tokens[:, :, :, :past], starts=begins)
    key, value = layer.update(*tokens[:, :, :, past:], starts=begins)
    query, scoring = draw(2, 4, 1, 16, seed=4), Scoring(0.25)
    at = torch.tensor([past], device=DEVICE)
    calls = [(Step(past, begins, policy), window, (key, value)), (Step(past, begins, policy), None, tokens)]
    room = [torch.cat([states, torch.full_like(states, 3.0)], dim=2) for states in tokens]
    calls += [(Step(at, begins, policy), window, layer.stores), (Step(at, begins, policy), None, room)]
    for step, size, (keys, values) in calls:
        frame = Frame(step, 1, size, sinks)
        assert decode.refusal(query, frame, scoring) is None
        got = decode.attend(query, keys, values, frame, scoring)[0]
        want = eager.attend(query.double(), keys.double(), values.double(), frame, scoring)[0]
        torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_what_it_leaves_to_other_backends():
    query, frame = draw(1, 2, 1, 16), Frame(Step(4), 1, 8, 2)
    assert decode.refusal(draw(1, 2, 2, 16), frame, Scoring(1.0)) == "it serves one query per row"
    assert (
        decode.refusal(query, Frame(Step(0), 1, 8, 2), Scoring(1.0)) == "it serves a cache that holds tokens"
    )
    assert "does not take float64" in decode.refusal(query.double(), frame, Scoring(1.0))
    assert "head_dim=264" in decode.refusal(draw(1, 2, 1, 264), frame, Scoring(1.0))
    assert "dropout" in decode.refusal(query, frame, Scoring(1.0, dropout=0.1))
    assert "no gradient" in decode.refusal(query.requires_grad_(), frame, Scoring(1.0))


@pytest.mark.thorough
@pytest.mark.parametrize("static", [False, True])
def test_a_model_decodes_with_the_kernel(static, monkeypatch):
    monkeypatch.undo()
    model = windowed_model("llama", num_hidden_layers=2).to(DEVICE)
    tokens, mask = (
        torch.randint(3, 90, (2, 12)).to(DEVICE),
        torch.ones(2, 12, dtype=torch.long, device=DEVICE),
    )
    mask[1, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    want = model.generate(tokens, **options)
    model.set_attn_implementation("triton")
    if static:
        options["cache_implementation"] = "static"
    assert model.generate(tokens, **options).tolist() == want.tolist()


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("slots", [[5], [0, 63, 7]])
def test_a_token_is_written_into_its_slot_and_nowhere_else(slots, layout):
    stores, new = stored(3, 64, 2, 40, [0] * 3, [64] * 3, layout), draw(2, 3, 1, 2, 40).transpose(2, 3)
    want, index = torch.stack(stores), torch.tensor(slots, device=DEVICE)
    for row, slot in enumerate(slots * (3 // len(slots))):
        want[:, row, :, slot] = new[:, row, :, 0]
    write_token(tuple(stores), tuple(new), index)
    assert torch.equal(torch.stack(stores), want)


def test_a_compiled_step_meets_one_node(monkeypatch):
    monkeypatch.undo()
    torch._dynamo.reset()
    query, stores = draw(1, 2, 1, 16), stored(1, 20, 1, 16, [0], [9])
    lasts = torch.tensor([8], device=DEVICE)

    def call(query):
        return attend_split(query, *stores, None, lasts, 2, 1.0, None, None, None)

    torch.testing.assert_close(torch.compile(call, fullgraph=True, backend="eager")(query), call(query))
