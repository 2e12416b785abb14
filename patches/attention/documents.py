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
    inputs = [query, key, value] + ([] if scoring.sink_query is None else [scoring.sink_query])
    lengths = _lengths(documents, query.shape[0], query.shape[2])
    # Splits and no slices: the gradient of a slice is as large as the row that it was cut from.
    rows = [
        [tensor.split(its, dim=2) for tensor in row]
        for its, *row in zip(lengths, *(tensor.split(1) for tensor in inputs), strict=True)
    ]
    outputs = []
    for row in rows:
        pieces = []
        for index, (own_query, own_key, own_value, *met) in enumerate(zip(*row, strict=True)):
            between_documents = index % 2 == 0
            if between_documents:
                if own_query.shape[2]:
                    # Under autocast queries may be wider than values, whose dtype the output has.
                    pieces.append(torch.zeros_like(own_query, dtype=own_value.dtype))
                continue
            alone = Frame(Step(0, policy=frame.step.policy), own_query.shape[2], frame.window, frame.sinks)
            own = replace(scoring, sink_query=met[0]) if met else scoring
            pieces.append(attend(own_query, own_key, own_value, alone, own)[0])
        outputs.append(torch.cat(pieces, dim=2))
    return torch.cat(outputs)


def _lengths(documents: Sequence[Document], rows: int, tokens: int) -> list[list[int]]:
    """Tokens of every row's documents and of what lies before, between and behind them, which comes first."""
    lengths: list[list[int]] = [[] for _ in range(rows)]
    ends = [0] * rows
    for document in documents:
        lengths[document.row] += [document.begin - ends[document.row], document.length]
        ends[document.row] = document.end
    return [[*row, tokens - end] for row, end in zip(lengths, ends, strict=True)]
