"""The blocks of the ``sdpa`` backend share masks: every place a block can stand, at full size."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from patches.attention import eager, full_blocks, kept, sdpa
from patches.attention.documents import attend_documents
from patches.attention.scoring import Scoring
from patches.frame import Document, Frame, Step


@pytest.mark.parametrize("heads,kv_heads", [(1, 1), (4, 1), (8, 1)])
@pytest.mark.parametrize("window", [3, 256, 700])
@pytest.mark.parametrize("tokens", [512, 800])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_blocks_before_and_after_the_window_is_full(heads, kv_heads, window, tokens, softcap):
    kept._kept.cache_clear()
    generator = torch.Generator().manual_seed(tokens + window + heads)
    query, key, value = (
        torch.randn(1, count, tokens, 8, dtype=torch.float64, generator=generator)
        for count in (heads, kv_heads, kv_heads)
    )
    frame, scoring = Frame(Step(0), tokens, window, 5), Scoring(8**-0.5, softcap=softcap)
    got = sdpa.attend(query, key, value, frame, scoring)[0]
    torch.testing.assert_close(got, eager.attend(query, key, value, frame, scoring)[0])


def test_full_blocks_share_one_mask():
    kept._kept.cache_clear()
    query = torch.randn(1, 1, 256 * 9, 4, requires_grad=True)
    sdpa.attend(query, query, query, Frame(Step(0), 256 * 9, 300, 2), Scoring(0.5))
    assert kept._kept.cache_info().currsize == 2


@pytest.fixture(params=[20, 1000], ids=["inside and edges", "one mask"])
def small_blocks(request, monkeypatch):
    """Blocks of 8, three in one call, of two parts or one; counts the blocks that went together."""
    served = []
    attend = full_blocks.attend

    def counted(query, parts, frame, scoring, block, begin, output):
        served.append((frame.tokens - begin) // block)
        monkeypatch.setattr(full_blocks, "QUERY_ELEMENTS", 3 * 8 * query.shape[1] * query.shape[3])
        attend(query, parts, frame, scoring, block, begin, output)

    monkeypatch.setattr(full_blocks, "INSIDE_MIN", request.param)
    monkeypatch.setattr(full_blocks, "attend", counted)
    monkeypatch.setattr(sdpa, "_block_size", lambda groups, window: 8)
    return served


def inputs(frame, heads, kv_heads, dtype):
    """Fresh query, key and value of two rows for a ``whole`` or ``chunk`` call."""
    columns = frame.tokens
    if frame.layout == "chunk":
        columns += frame.sinks + frame.window - 1
    return tuple(
        torch.randn(2, count, length, 8, dtype=dtype)
        for count, length in ((heads, frame.tokens), (kv_heads, columns), (kv_heads, columns))
    )


@pytest.mark.parametrize("heads,kv_heads", [(2, 2), (4, 1)])
@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("past,window,tokens,blocks", [
    (0, 20, 100, 10), (0, 24, 30, 0), (0, 24, 31, 1), (7, 24, 100, 10), (60, 20, 8, 1), (60, 33, 50, 6),
    (60, 22, 24, 3), (60, 16, 50, 6), (2, 5, 46, 5), (0, 1, 70, 8),
])  # fmt: skip
def test_blocks_that_go_together_equal_eager(
    heads, kv_heads, sinks, past, window, tokens, blocks, small_blocks
):
    if past == 0:
        tokens += sinks
    frame, scoring = Frame(Step(past), tokens, window, sinks), Scoring(8**-0.5)
    given = inputs(frame, heads, kv_heads, torch.float64)
    got = sdpa.attend(*given, frame, scoring)[0]
    torch.testing.assert_close(got, eager.attend(*given, frame, scoring)[0])
    assert sum(small_blocks) == blocks


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize("past", [21, 22, 23, 24, 25, 26, 27, 80])
@pytest.mark.parametrize("tokens", [8, 9, 10, 17])
def test_a_chunk_whose_last_queries_fill_blocks(past, tokens, sinks, small_blocks):
    frame, scoring = Frame(Step(past), tokens, 24, sinks), Scoring(8**-0.5)
    given = inputs(frame, 2, 1, torch.float64)
    got = sdpa.attend(*given, frame, scoring)[0]
    torch.testing.assert_close(got, eager.attend(*given, frame, scoring)[0])
    full = past >= 23 + sinks
    assert sum(small_blocks) == ((tokens if full else max(tokens - (23 + sinks - past), 0)) // 8)


def test_tensors_of_any_kind(small_blocks):
    frame, scoring = Frame(Step(0), 90, 24, 3), Scoring(8**-0.5)
    query, key, value = inputs(frame, 4, 2, torch.float32)
    want = eager.attend(query, key, value, frame, scoring)[0]
    with torch.device("meta"):
        torch.testing.assert_close(sdpa.attend(query, key, value, frame, scoring)[0], want)
    by_token, by_dim = (
        [each.transpose(*axes).contiguous().transpose(*axes) for each in (query, key, value)]
        for axes in ((1, 2), (2, 3))
    )
    torch.testing.assert_close(sdpa.attend(*by_token, frame, scoring)[0], want)
    assert small_blocks == [8, 8]
    torch.testing.assert_close(sdpa.attend(*by_dim, frame, scoring)[0], want)
    with torch.autocast("cpu", torch.bfloat16):
        for given in ((query, key, value), (query, key, value.bfloat16())):
            mixed = sdpa.attend(*given, frame, scoring)[0]
            torch.testing.assert_close(mixed.float(), want, atol=0.03, rtol=0.03)
    assert small_blocks == [8, 8]


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_the_dtypes_of_models(dtype, tolerance, small_blocks):
    frame, scoring = Frame(Step(0), 90, 24, 3), Scoring(8**-0.5)
    given = inputs(frame, 4, 2, dtype)
    got = sdpa.attend(*given, frame, scoring)[0]
    want = eager.attend(*(tensor.double() for tensor in given), frame, scoring)[0]
    assert got.dtype == dtype
    assert small_blocks == [8]
    torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("reason", ["trained", "softcap", "dropout", "ragged"])
def test_blocks_go_one_by_one_where_there_is_no_kernel(reason, small_blocks):
    starts = torch.tensor([0, 4]) if reason == "ragged" else None
    frame = Frame(Step(0, starts), 90, 24, 3)
    scoring = Scoring(0.3, 0.5 if reason == "dropout" else 0.0, 5.0 if reason == "softcap" else None)
    query, key, value = inputs(frame, 2, 2, torch.float32)
    sdpa.attend(query.requires_grad_(reason == "trained"), key, value, frame, scoring)
    assert small_blocks == []


def test_keys_come_in_whole_vectors(small_blocks, monkeypatch):
    met = []
    forward = full_blocks.forward

    def noted(query, key, *rest):
        met.append(key.shape[2])
        return forward(query, key, *rest)

    monkeypatch.setattr(full_blocks, "forward", noted)
    for window in (24, 25, 31):
        frame = Frame(Step(0), 90, window, 3)
        sdpa.attend(*inputs(frame, 2, 1, torch.float32), frame, Scoring(0.3))
    assert met and all(keys % full_blocks.TILE == 0 for keys in met)


def test_what_is_traced_leaves_no_mask_behind(small_blocks):
    frame, scoring = Frame(Step(0), 90, 24, 3), Scoring(8**-0.5)
    given = inputs(frame, 4, 2, torch.float32)
    kept._kept.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        sdpa.attend(*(mode.from_tensor(tensor) for tensor in given), frame, scoring)
    got = sdpa.attend(*given, frame, scoring)[0]
    torch.testing.assert_close(got, eager.attend(*given, frame, scoring)[0])
    with FakeTensorMode() as mode:
        sdpa.attend(*(mode.from_tensor(tensor) for tensor in given), frame, scoring)


class Attention(torch.nn.Module):
    """The backend as a module, for ``torch.export``."""

    def forward(self, query, key, value):
        return sdpa.attend(query, key, value, Frame(Step(0), query.shape[2], 24, 3), Scoring(8**-0.5))[0]


@torch.no_grad()
def test_an_export_leaves_no_mask_behind(small_blocks):
    frame = Frame(Step(0), 90, 24, 3)
    given = inputs(frame, 4, 2, torch.float32)
    kept._kept.cache_clear()
    exported = torch.export.export(Attention(), given, strict=False)
    want = eager.attend(*given, frame, Scoring(8**-0.5))[0]
    torch.testing.assert_close(Attention()(*given), want)
    torch.testing.assert_close(exported.module()(*given), want)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("past,tokens,window,sinks", [(5, 10, 4, 400), (5, 3, 4, 1000), (0, 9, 4, 9)])
def test_a_chunk_among_the_sinks(past, tokens, window, sinks, trained):
    frame, scoring = Frame(Step(past), tokens, window, sinks), Scoring(8**-0.5)
    given = [tensor.requires_grad_(trained) for tensor in inputs(frame, 4, 2, torch.float64)]
    torch.testing.assert_close(
        sdpa.attend(*given, frame, scoring)[0], eager.attend(*given, frame, scoring)[0]
    )


class Written(TorchDispatchMode):
    """Counts the elements of every tensor that comes out of an operation and is no view."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if not any(each.alias_info is not None for each in function._schema.returns):
            self.elements += sum(each.numel() for each in tree_leaves(output) if torch.is_tensor(each))
        return output


def written_by_training(attend, tokens):
    """Elements written by a forward and a backward pass over ``tokens`` tokens."""
    inputs = [torch.randn(1, heads, tokens, 8, requires_grad=True) for heads in (4, 1, 1)]
    with Written() as written:
        attend(*inputs).sum().backward()
    return written.elements


@pytest.mark.parametrize("sinks,softcap", [(3, None), (0, None), (3, 5.0)])
def test_the_work_of_training_grows_with_the_length(sinks, softcap):
    def attend(query, key, value):
        frame, scoring = Frame(Step(0), query.shape[2], 100, sinks), Scoring(8**-0.5, softcap=softcap)
        return sdpa.attend(query, key, value, frame, scoring)[0]

    # A little more than 8 times: the first blocks see fewer keys.
    assert written_by_training(attend, 8 * 1024) < 9.5 * written_by_training(attend, 1024)


def test_the_work_of_training_on_packed_documents_does_not_grow_with_their_number():
    def attend(query, key, value, length):
        tokens = query.shape[2]
        documents = [Document(0, begin, begin + length) for begin in range(0, tokens, length)]
        frame, scoring = Frame(Step(0), tokens, 100, 3), Scoring(8**-0.5)
        return attend_documents(sdpa.attend, query, key, value, frame, scoring, documents)

    few, many = (
        written_by_training(lambda *inputs, length=length: attend(*inputs, length), 1024)
        for length in (512, 32)
    )
    assert many < 1.2 * few
