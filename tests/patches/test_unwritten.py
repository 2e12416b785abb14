"""A decode step whose attention writes the token: kernels in Triton's interpreter, or on a GPU."""

from dataclasses import replace

import pytest
import torch

import patches
from patches.attention import backends, decode, eager
from patches.attention.scoring import Scoring
from patches.cache import layer, unwritten
from patches.cache.layout import LAYOUTS
from patches.cache.unwritten import Unwritten, UnwrittenTokens
from patches.frame import Frame, Step
from patches.kernels import language
from patches.kernels.decode import Reading, decode_and_write
from patches.policy import PolicyError, WindowPolicy
from tests.patches.tiny import windowed_model

pytestmark = [
    pytest.mark.skipif(language.missing() is not None, reason=f"kernels: {language.missing()}"),
    pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def left(monkeypatch):
    """Tokens are left to attention on a CPU too, whose kernels run in the interpreter."""
    for module in (layer, unwritten):
        monkeypatch.setattr(module, "has_kernel", lambda token: True)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def stores(batch, kv_heads, columns, dim, layout):
    """Keys and values of a cache in a layout."""
    made = [layout.allocate(batch, kv_heads, columns, dim, torch.float32, torch.device(DEVICE)) for _ in "kv"]
    for seed, store in enumerate(made, 10):
        store.copy_(draw(batch, kv_heads, columns, dim, seed=seed))
    return tuple(made)


@pytest.mark.parametrize("splits,layout", list(zip((1, 3), LAYOUTS.values(), strict=True)), ids=LAYOUTS)
@pytest.mark.parametrize("column", [0, 2, 31, 32, 69, [69], [0, 40, 7]])
def test_the_kernel_equals_writing_first(column, splits, layout):
    kept, token, query = stores(3, 2, 70, 40, layout), draw(2, 3, 1, 2, 40).transpose(2, 3), draw(3, 4, 1, 40)
    columns = [column] * 3 if isinstance(column, int) else column * (3 // len(column))
    before = torch.stack(kept)
    for row, at in enumerate(columns):
        before[:, row, :, at] = token[:, row, :, 0]
        for store in kept:
            store[row, :, at] = torch.nan
    frame, scoring = Frame(Step(69), 1, None, 0), Scoring(0.2)
    slots = column if isinstance(column, int) else torch.tensor(column, device=DEVICE)
    got = decode_and_write(query, kept, tuple(token), slots, Reading(None, None, 0, 0.2, splits=splits))
    assert torch.equal(torch.stack(kept), before)
    want = eager.attend(query.double(), *before.double(), frame, scoring)[0]
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)


def test_a_row_that_has_not_begun_is_not_written():
    kept = stores(2, 1, 20, 16, LAYOUTS["heads-first"])
    before, token = torch.stack(kept), draw(2, 2, 1, 1, 16)
    slots, lasts = torch.tensor([0, 4], device=DEVICE), torch.tensor([-2, 4], device=DEVICE)
    got = decode_and_write(draw(2, 2, 1, 16), kept, tuple(token), slots, Reading(None, lasts, 0, 0.2))
    before[:, 1, :, 4] = token[:, 1, :, 0]
    assert torch.equal(torch.stack(kept), before)
    assert (got[0] == 0).all() and got[1].isfinite().all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("past", [1, 12, 40])
def test_attention_and_write_of_a_step_equal_the_reference(past, turned, left):
    window, sinks = 8, 3
    tokens, query = draw(2, 2, 2, past + 1, 16), draw(2, 4, 1, 16, seed=4)
    made = [patches.cache.window.WindowLayer(window, sinks) for _ in range(2)]
    for each in made:
        each.update(*tokens[:, :, :, :past])
    want_kv = made[0].update(*tokens[:, :, :, past:])
    shells = made[1].update(*tokens[:, :, :, past:], in_pass=True)
    assert all(isinstance(shell, UnwrittenTokens) for shell in shells)
    assert shells[0].shape == want_kv[0].shape and shells[0].dtype == want_kv[0].dtype
    scoring = Scoring(0.25, sink_query=draw(2, 4, 1, 16, seed=5) if turned else None)
    frame = Frame(Step(past, None, WindowPolicy(window, sinks, "absolute", ())), 1, window, sinks)
    got, weights = backends.attend(backends.BACKENDS["triton"], query, *shells, frame, scoring)
    exact = replace(scoring, sink_query=scoring.sink_query.double()) if turned else scoring
    want = eager.attend(query.double(), *(each.double() for each in want_kv), frame, exact)[0]
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=1e-5)
    assert weights is None
    assert all(torch.equal(a, b) for a, b in zip(made[0].stores, made[1].stores, strict=True))


@pytest.mark.parametrize(
    "cache,attention,padding,steps",
    [
        ("growing", "triton", 0, 3),
        ("growing", "triton", 5, 0),
        ("static", "triton", 5, 3),
        ("static", "sdpa", 5, 0),
    ],
)
def test_a_model_generates_the_same(cache, attention, padding, steps, left, monkeypatch):
    """Steps whose attention wrote, in one layer with a window; torch writes padded rows of a growing one."""
    model = windowed_model("llama", num_hidden_layers=2).to(DEVICE)
    model.config.attention_window["global_layers"] = [1]
    model = type(model)(model.config).to(DEVICE).eval()
    tokens, mask = torch.randint(3, 90, (2, 12)).to(DEVICE), torch.ones(2, 12, dtype=torch.long).to(DEVICE)
    mask[1, :padding] = 0
    options = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False, "disable_compile": True}
    with monkeypatch.context() as plain:
        plain.setattr(layer, "has_kernel", lambda token: False)
        want = model.generate(tokens, **options)
    model.set_attn_implementation(attention)
    calls = []
    serve = decode.attend_and_write
    monkeypatch.setattr(decode, "attend_and_write", lambda *call: calls.append(1) or serve(*call))
    if cache == "static":
        options["cache_implementation"] = "static"
    assert model.generate(tokens, **options).tolist() == want.tolist()
    assert len(calls) == steps


def test_only_attention_of_ours_reads_what_is_not_written():
    kept, token = stores(1, 1, 4, 8, LAYOUTS["heads-first"]), (draw(1, 1, 1, 8), draw(1, 1, 1, 8))
    shell = UnwrittenTokens(Unwritten(kept, token, 2))
    with pytest.raises(PolicyError, match="only attention of Headroom can read"):
        shell + 1
    assert "UnwrittenTokens([1, 1, 4, 8]" in repr(shell)
    assert torch.equal(shell.unwritten.write()[0][:, :, 2:3], token[0])


def test_outside_a_pass_a_cache_hands_out_tensors(left):
    cache = patches.WindowedCache(windowed_model("llama").config)
    cache.open(Step(0))
    cache.reset()
    for length in (5, 1):
        key, value = cache.update(*draw(2, 1, 2, length, 8), 0)
        assert type(key) is type(value) is torch.Tensor
