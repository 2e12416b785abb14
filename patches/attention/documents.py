"""Several documents in one row, or rows of their own length: each attends for itself."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from patches.attention.scoring import Scoring
from patches.frame import Document, Frame, Step

Attend = Callable[[Tensor, Tensor, Tensor, Frame, Scoring], tuple[Tensor, Tensor | None]]


def attend_documents(
    attend: Attend,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    frame: Frame,
    scoring: Scoring,
    documents: Sequence[Document],
) -> Tensor:
    """Attend document by document, each with its own sinks; a padded row is a document that begins late.

    Args:
        attend: A backend.
        query: ``[B, H, T, D]``.
        key: ``[B, K, T, D]``.
        value: the same.
        frame: A first pass without a cache.
        scoring: How products become weights.
        documents: In the order of rows and columns.

    Returns:
        ``[B, H, T, D]``, zeros for tokens of no document.
    """
    rows: list[list[Tensor]] = [[] for _ in query]
    ends = [0] * len(rows)
    for document in documents:
        part = (slice(document.row, document.row + 1), slice(None), slice(document.begin, document.end))
        own = scoring
        if scoring.sink_query is not None:
            own = replace(scoring, sink_query=scoring.sink_query[part])
        alone = Frame(Step(0, policy=frame.step.policy), document.length, frame.window, frame.sinks)
        _pad(rows[document.row], query, document.begin - ends[document.row])
        rows[document.row].append(attend(query[part], key[part], value[part], alone, own)[0])
        ends[document.row] = document.end
    for pieces, end in zip(rows, ends, strict=True):
        _pad(pieces, query, query.shape[2] - end)
    return torch.cat([torch.cat(pieces, dim=2) for pieces in rows])


def _pad(pieces: list[Tensor], query: Tensor, tokens: int) -> None:
    if tokens:
        pieces.append(query.new_zeros(1, query.shape[1], tokens, query.shape[3]))
