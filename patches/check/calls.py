"""The inputs of a case, and what a backend makes of them."""

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from patches.attention.backends import Backend
from patches.attention.documents import attend_documents
from patches.attention.scoring import Scoring
from patches.cache.window import WindowLayer
from patches.check.cases import Case
from patches.frame import Document, Frame, Step


class Refused(Exception):
    """The backend said that it cannot serve a call."""


@dataclass(frozen=True)
class Inputs:
    """Tensors ``[B, heads, N, D]`` of whole rows, and logits ``[H]``; None where the case has none."""

    query: Tensor
    key: Tensor
    value: Tensor
    sink_query: Tensor | None
    sink_logits: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        """Those that are there."""
        drawn = (self.query, self.key, self.value, self.sink_query, self.sink_logits)
        return [leaf for leaf in drawn if leaf is not None]


def draw(case: Case, device: str, dtype: torch.dtype, grads: bool) -> Inputs:
    """Random inputs that depend on the case alone, with heads beside each other in memory as in models."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr(case).encode()))

    def some(heads: int) -> Tensor:
        drawn = torch.randn(len(case.begins), case.length, heads, case.head_dim, generator=generator)
        return drawn.to(device, dtype).requires_grad_(grads).transpose(1, 2)

    query, key, value, other = (
        some(heads) for heads in (case.heads, case.kv_heads, case.kv_heads, case.heads)
    )
    logits = torch.randn(case.heads, generator=generator).to(device, dtype).requires_grad_(grads)
    return Inputs(query, key, value, other if case.sink_query else None, logits if case.sink_logits else None)


def attend(backend: Backend, case: Case, inputs: Inputs) -> Tensor:
    """``[B, H, N, D]`` from all passes.

    Raises:
        Refused: the backend serves at least one of them not.
    """
    starts = torch.tensor([row[0] for row in case.begins], device=inputs.query.device)
    documents = _documents(case) if case.packed else None
    cache = None
    if len(case.passes) > 1:
        assert case.window is not None
        cache = WindowLayer(case.window, case.sinks)
    outputs, past = [], 0
    for tokens in case.passes:
        part = (slice(None), slice(None), slice(past, past + tokens))
        key, value = inputs.key[part], inputs.value[part]
        # Rows that have not begun yet count every column so far as padding.
        begun = starts.clamp(max=past + tokens) if case.padded else None
        if cache is not None:
            key, value = cache.update(key, value, starts=begun)
        frame = Frame(Step(past, begun, documents=documents), tokens, case.window, case.sinks)
        scoring = Scoring(
            case.head_dim**-0.5,
            softcap=case.softcap,
            sink_logits=inputs.sink_logits,
            sink_query=None if inputs.sink_query is None else inputs.sink_query[part],
        )
        query = inputs.query[part]
        if reason := backend.refusal(query, frame, scoring):
            raise Refused(reason)
        if documents is None:
            outputs.append(backend.attend(query, key, value, frame, scoring)[0])
        else:
            outputs.append(attend_documents(backend.attend, query, key, value, frame, scoring, documents))
        past += tokens
    return torch.cat(outputs, dim=2)


def _documents(case: Case) -> tuple[Document, ...]:
    ends = [[*row[1:], case.length] for row in case.begins]
    return tuple(
        Document(row, begin, end)
        for row, (begins, stops) in enumerate(zip(case.begins, ends, strict=True))
        for begin, end in zip(begins, stops, strict=True)
    )
