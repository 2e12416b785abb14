"""Several documents in one row: each attends for itself, with sinks of its own, through every backend."""

import pytest
import torch
from transformers import DataCollatorWithFlattening

from patches import PolicyError
from patches.attention import eager, sdpa
from patches.attention.documents import attend_documents
from patches.attention.scoring import Scoring
from patches.check.reference import reference_attention
from patches.frame import Document, Frame, Step
from tests.patches.tiny import VOCAB, windowed_model

LENGTHS = [30, 1, 21, 8]


def tokens_of(lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(3, VOCAB, (1, length), generator=generator) for length in lengths]


def packed(lengths: list[int]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["absolute", "cache"])
def test_packed_documents_equal_their_single_runs(backend, positions):
    window = {"size": 8, "sinks": 3, "positions": positions, "global_layers": [1]}
    model = windowed_model("llama", attention_window=window)
    model.set_attn_implementation(backend)
    parts = tokens_of(LENGTHS)
    with torch.no_grad():
        together = model(torch.cat(parts, dim=1), position_ids=packed(LENGTHS)).logits
        alone = torch.cat([model(part).logits for part in parts], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)


def test_rows_may_be_packed_differently():
    model = windowed_model("qwen3")
    first, second = tokens_of([10, 14]), tokens_of([17, 2, 5])
    ids = torch.cat([torch.cat(first, dim=1), torch.cat(second, dim=1)])
    positions = torch.cat([packed([10, 14]), packed([17, 2, 5])])
    with torch.no_grad():
        together = model(ids, position_ids=positions).logits
        for row, parts in enumerate((first, second)):
            alone = torch.cat([model(part).logits for part in parts], dim=1)
            torch.testing.assert_close(together[row : row + 1], alone, atol=2e-5, rtol=2e-5)


def test_the_collator_of_transformers_trains_as_separate_rows():
    model = windowed_model("llama").train()
    examples = [{"input_ids": part[0].tolist()} for part in tokens_of(LENGTHS)]
    batch = DataCollatorWithFlattening(return_tensors="pt", return_flash_attn_kwargs=True)(examples)
    # An evaluation step during training neither trains nor may make a cache.
    with torch.no_grad():
        assert model.eval()(**batch).past_key_values is None
    model.train()(**batch).loss.backward()
    got = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = sum(
        model(part, labels=part).loss * (part.shape[1] - 1)
        for part in tokens_of(LENGTHS)
        if part.shape[1] > 1
    )
    (total / sum(length - 1 for length in LENGTHS)).backward()
    for one, parameter in zip(got, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("backend", [eager, sdpa])
def test_documents_equal_the_reference_and_its_gradient(backend):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 40, 16), (2, 2, 40, 16), (2, 2, 40, 16)]
    inputs = [torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    # Columns 31 to 35 of the second row belong to no document.
    documents = (Document(0, 0, 40), Document(1, 0, 13), Document(1, 13, 31), Document(1, 35, 40))
    frame = Frame(Step(0, documents=documents), 40, 8, 3)
    got = attend_documents(backend.attend, *inputs, frame, Scoring(0.25), documents)
    wanted = torch.zeros_like(got)
    for document in documents:
        part = (slice(document.row, document.row + 1), slice(None), slice(document.begin, document.end))
        wanted[part] = reference_attention(*(tensor[part] for tensor in inputs), 8, 3, 0.25)
    torch.testing.assert_close(got, wanted)
    weight = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    grads = (torch.autograd.grad((out * weight).sum(), inputs) for out in (got, wanted))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_packing_and_padding_at_once_is_refused():
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    with pytest.raises(PolicyError, match="pack documents or pad them"):
        windowed_model("llama")(torch.ones(1, 6, dtype=torch.long), mask, torch.tensor([[0, 1, 0, 1, 2, 0]]))


@pytest.mark.parametrize("begin", [0, 3])
def test_documents_have_the_dtype_of_one_call_under_autocast(begin):
    query, key, value = (torch.randn(1, heads, 10, 8) for heads in (4, 2, 2))
    frame, scoring = Frame(Step(0), 10, 4, 1), Scoring(0.3)
    documents = [Document(0, begin, 6), Document(0, 6, 10)]
    with torch.autocast("cpu", torch.bfloat16):
        got = attend_documents(eager.attend, query, key, value.bfloat16(), frame, scoring, documents)
        alone = eager.attend(query, key, value.bfloat16(), frame, scoring)[0]
    assert got.dtype == alone.dtype == torch.bfloat16
