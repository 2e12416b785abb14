"""The kernel that reads codes, in Triton's interpreter: it gives what the pieces give, expanded."""

from dataclasses import replace

import pytest
import torch

import patches
from patches.attention import sdpa, stored
from patches.attention.scoring import Scoring
from patches.cache import quantization
from patches.cache.policies.policy import Place
from patches.cache.quantization import Options
from patches.cache.quantized_reading import Reading
from patches.frame import Frame, Step
from patches.kernels import language
from patches.kernels.quantized_decode import tile_tokens
from tests.patches.tiny import windowed_model

pytestmark = [
    pytest.mark.skipif(language.missing() is not None, reason=f"kernels: {language.missing()}"),
    pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value"),
]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SINKS, WINDOW = 3, 75
OPTIONS = Options(block=16, group=16, residual=20, sinks=SINKS)
GLOBAL, RING = Place(0, None, 0, 1), Place(0, WINDOW, SINKS, 1)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.fixture
def poisoned(monkeypatch):
    """What a kernel does not write is NaN."""
    monkeypatch.setattr(torch, "empty", lambda *shape, **options: torch.full(shape, torch.nan, **options))


def check(bits, place, past, begins=None, heads=4, kv_heads=2, dim=32, options=OPTIONS, scoring=None,
          dtype=torch.float32, tolerance=1e-5):  # fmt: skip
    """One token after ``past`` columns, by the kernel and piece by piece."""
    scoring = scoring or Scoring(dim**-0.5)
    rows = 1 if begins is None else len(begins)
    starts = None if begins is None else torch.tensor(begins, device=DEVICE)
    layer = quantization.make(bits, options, place)
    tokens = draw(2, rows, kv_heads, past + 1, dim).to(dtype)
    layer.update(*tokens[:, :, :, :past], starts=starts, begins=begins)
    held = layer.update(*tokens[:, :, :, past:], starts=starts, begins=begins)[0].stored
    reading = held.decode.__self__
    assert isinstance(reading, Reading)
    query = draw(rows, heads, 1, dim, seed=2).to(dtype)
    frame = Frame(Step(past, starts), 1, place.window, place.sinks)
    assert reading.reads(query, frame, scoring)
    output, lse = reading.by_kernel(query, scoring)
    assert output.dtype == lse.dtype == torch.float32
    wide = [tensor.double() for tensor in (query, *held.new)]
    pieces = replace(held, new=tuple(wide[1:]), pieces=lambda: map(widened, held.pieces()), decode=None)
    own = replace(scoring, sink_query=None if scoring.sink_query is None else scoring.sink_query.double())
    wanted = stored.attend(wide[0], pieces, frame, own, sdpa.attend)
    merged = replace(pieces, decode=lambda *_: (output, lse))
    got = stored.attend(wide[0], merged, frame, own, sdpa.attend)
    assert got.isfinite().all()
    real = torch.tensor([begin <= past for begin in begins or (0,)], device=DEVICE)[:, None, None, None]
    torch.testing.assert_close(got * real, wanted * real, rtol=tolerance, atol=tolerance)


def widened(piece):
    return replace(piece, keys=piece.keys.double(), values=piece.values.double())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("past", [1, SINKS, SINKS + 36, SINKS + 37, 100, 139])
@pytest.mark.parametrize("place", [GLOBAL, RING], ids=["global", "window"])
def test_every_fill(bits, place, past):
    check(bits, place, past)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("place", [GLOBAL, RING], ids=["global", "window"])
def test_padded_rows(bits, place):
    check(bits, place, 130, begins=(0, 57, 128, 130, 131))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("heads,kv_heads,dim", [(2, 2, 12), (4, 1, 80), (8, 1, 96), (32, 1, 40), (2, 1, 256)])
def test_groups_and_head_dims(bits, heads, kv_heads, dim):
    options = Options(block=32, group=32, residual=8, sinks=1)
    check(bits, GLOBAL, 90, heads=heads, kv_heads=kv_heads, dim=dim, options=options)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("bits", [8, 4])
def test_softcap_a_sink_query_and_sink_logits(bits):
    scoring = Scoring(0.3, softcap=2.0, sink_query=draw(1, 4, 1, 32, seed=3), sink_logits=draw(4, seed=4))
    check(bits, RING, 120, scoring=scoring)
    check(bits, GLOBAL, 120, scoring=replace(scoring, softcap=None))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("bits", [8, 4])
def test_half_precision(bits):
    check(bits, RING, 120, dtype=torch.float16, tolerance=4e-3)


def test_many_splits_of_one_row(monkeypatch):
    monkeypatch.setattr("patches.kernels.quantized_decode.choose_splits", lambda *_: 8)
    check(4, RING, 139)
    check(8, GLOBAL, 139, begins=(0, 70))


def test_blocks_that_do_not_come_apart_into_tiles_are_left_to_the_pieces():
    sizes = {block: tile_tokens(block, 128, torch.bfloat16) for block in (8, 16, 48, 64, 96, 128)}
    assert sizes == {8: None, 16: 16, 48: 16, 64: 64, 96: 32, 128: 64}
    assert tile_tokens(64, 64, torch.float32) == 32 and tile_tokens(64, 128, torch.float32) == 16


@pytest.mark.parametrize("policy", [pytest.param("int8", marks=pytest.mark.thorough), "int4"])
def test_a_model_decodes_with_the_kernel(policy, monkeypatch):
    """Everywhere but on CUDA the kernel is not asked; here it is made to be."""
    model = windowed_model("llama", head_dim=16, num_hidden_layers=2, attention_window={
        "size": 64, "sinks": 3, "positions": "cache", "global_layers": [1]}).to(DEVICE)  # fmt: skip
    tokens = torch.randint(3, 90, (2, 80), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    mask = torch.ones_like(tokens)
    mask[1, :33] = 0
    spec = f"{policy}:block=16,residual=9"

    def generate():
        cache = patches.make_cache(model, spec, spec)
        options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
        return model.generate(tokens, past_key_values=cache, **options).tolist()

    by_pieces, asked = generate(), []
    monkeypatch.setattr(
        Reading,
        "decode",
        lambda self, *call: asked.append(self.reads(*call)) or self.by_kernel(call[0], call[2]),
    )
    assert generate() == by_pieces and len(asked) == 6 and all(asked)
