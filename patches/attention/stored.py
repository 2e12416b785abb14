"""Attention over a compressed cache: one softmax over pieces that are expanded one at a time.

Each piece gives an output and a log-sum-exp, which merge exactly (``patches.attention.two_part`` says why).
The new tokens of a pass are one more piece, as they came. Where a policy asks what weight each key received,
a second walk forms it from the merged log-sum-exp, so that no pass ever holds all weights at once.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patches.attention.documents import Attend
from patches.attention.explicit import products
from patches.attention.mask import visible
from patches.attention.scoring import Scoring
from patches.cache.stored import PIECE, Piece, Stored
from patches.frame import Frame
from patches.kernels import flash_attention_2, flash_attention_cpu
from patches.policy import PolicyError

ROWS = 512
"""Queries of one head whose scores are formed at once."""


def attend(query: Tensor, stored: Stored, frame: Frame, scoring: Scoring, backend: Attend) -> Tensor:
    """Attend to a compressed cache and the tokens of this pass.

    Args:
        query: ``[B, H, T, D]``, any float dtype.
        stored: What the layer shows.
        frame: Where the queries stand, and the window of the layer.
        scoring: How products become weights.
        backend: Serves a first pass, which meets nothing compressed.

    Returns:
        ``[B, H, T, D]`` in the dtype of ``query``; zeros for a query that sees nothing (left padding).

    Raises:
        PolicyError: dropout is asked for, or a gradient through what only kernels without one can serve.

    Holds: equals one softmax over all pieces (tests/patches/test_stored.py).
    """
    if scoring.dropout:
        raise PolicyError("a compressed cache serves no dropout; evaluate, or train without a cache")
    if not stored.past and stored.observe is None:
        return backend(query, *stored.new, frame, scoring)[0]
    total = _Merged(query)
    by_kernel = None if stored.decode is None else stored.decode(query, frame, scoring)
    if by_kernel is not None:
        total.add(0, *by_kernel)
    elif stored.past:
        for piece in stored.pieces():
            for part in _parts(query, piece, frame, scoring):
                total.add(part.begin, *part.attend())
    for part in _new_parts(query, stored.new, frame, scoring):
        total.add(part.begin, *part.attend())
    if scoring.sink_logits is not None:
        total.add_logits(scoring.sink_logits)
    if stored.observe is not None:
        walked = [_parts(query, piece, frame, scoring) for piece in stored.pieces()]
        new = _in_pieces(stored.new, frame, query.device)
        walked += [_parts(query, piece, frame, scoring, begin) for begin, piece in new]
        masses = [_mass(parts, total) for parts in walked]
        stored.observe([*masses[: len(masses) - len(new)], torch.cat(masses[-len(new) :], dim=2)])
    return total.output.to(query.dtype)


@dataclass(frozen=True)
class _Part:
    """Some queries against some keys.

    Attributes:
        begin: Which of the pass is the first query.
        query: ``[B, H, T, D]``.
        key: ``[B, K, N, D]``.
        value: the same.
        scoring: With the sink queries of these queries.
        seen: ``[1 or B, 1 or K, T, N]`` bool; None: all.
        bias: ``[B, K, N]`` or None.
        sinks: Which keys are sinks that queries of their own meet, ``[1 or B, 1 or K, N]``; None: none is.
        causal: Whether the keys are the queries' own tokens, each of which sees those up to itself.
        expand: Makes of the weighted values what the model takes; None: they are that.
    """

    begin: int
    query: Tensor
    key: Tensor
    value: Tensor
    scoring: Scoring
    seen: Tensor | None = None
    bias: Tensor | None = None
    sinks: Tensor | None = None
    causal: bool = False
    expand: Callable[[Tensor], Tensor] | None = None

    def attend(self) -> tuple[Tensor, Tensor]:
        """Output ``[B, H, T, D]`` and log-sum-exp ``[B, H, T]`` of a softmax over these keys alone."""
        output, lse = self._attend()
        return (output if self.expand is None else self.expand(output)), lse

    def _attend(self) -> tuple[Tensor, Tensor]:
        if self.sinks is None and _has_kernel(self.query, (self.key, self.value), self.scoring):
            if self.query.device.type == "cpu":
                return self._attend_on_cpu()
            if self.seen is None and self.bias is None:
                inputs = (self.query, self.key, self.value)
                return flash_attention_2.forward(*inputs, None, self.scoring.scale, causal=self.causal)[:2]
        scores = self.scores()
        lse = scores.logsumexp(dim=-1)
        weights = _exp(scores - lse[..., None]).to(self.value.dtype)
        output = torch.einsum("bkgtn,bknd->bkgtd", weights, self.value)
        return output.flatten(1, 2), lse.flatten(1, 2)

    def _attend_on_cpu(self) -> tuple[Tensor, Tensor]:
        mask = None
        if self.seen is not None or self.bias is not None:
            mask = self.query.new_zeros(1, 1, 1, self.key.shape[2])
            if self.bias is not None:
                mask = mask + self.bias[:, :, None].to(mask.dtype)
            if self.seen is not None:
                mask = torch.where(self.seen, mask, -torch.inf)
            mask = self._by_query_head(mask).expand(-1, -1, self.query.shape[2], -1)
        inputs = (self.query, self.key, self.value)
        output, lse = flash_attention_cpu.forward(*inputs, mask, self.scoring.scale, self.causal)
        if self.seen is not None:
            lse = lse.masked_fill(~self._by_query_head(self.seen.any(dim=-1)), -torch.inf)
        return output, lse

    def _by_query_head(self, tensor: Tensor) -> Tensor:
        """``[., 1 or K, ...]`` as ``[., 1 or H, ...]``."""
        if tensor.shape[1] == 1:
            return tensor
        return tensor.repeat_interleave(self.query.shape[1] // tensor.shape[1], dim=1)

    def scores(self) -> Tensor:
        """``[B, K, G, T, N]`` float32 or wider, ``-inf`` where a key is not seen."""
        scores = products(self.query, self.key)
        if self.sinks is not None:
            assert self.scoring.sink_query is not None
            met = products(self.scoring.sink_query, self.key)
            scores = torch.where(self.sinks[:, :, None, None], met, scores)
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32)) * self.scoring.scale
        if self.scoring.softcap is not None:
            wide = self.scoring.softcap * torch.tanh(wide / self.scoring.softcap)
        if self.bias is not None:
            wide = wide + self.bias[:, :, None, None].to(wide.dtype)
        return wide if self.seen is None else wide.masked_fill(~self.seen[:, :, None], -torch.inf)


def _has_kernel(query: Tensor, keys_and_values: tuple[Tensor, Tensor], scoring: Scoring) -> bool:
    """Whether a kernel gives output and log-sum-exp for tensors of this kind; on CUDA without a mask."""
    if scoring.softcap is not None or (torch.is_grad_enabled() and query.requires_grad):
        return False
    if query.device.type == "cpu":
        return flash_attention_cpu.serves(query, *keys_and_values)
    return (
        flash_attention_2.missing() is None
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= flash_attention_2.HEAD_DIM_MAX
        and query.shape[-1] % flash_attention_2.HEAD_DIM_STEP == 0
    )


def _parts(query: Tensor, piece: Piece, frame: Frame, scoring: Scoring, begin: int = 0) -> Iterator[_Part]:
    """The queries from ``begin`` on against one piece, some at a time."""
    met = scoring.sink_query if frame.window is not None else None
    query, met = piece.project(query), None if met is None else piece.project(met)
    for first in range(begin // ROWS * ROWS, frame.tokens, ROWS):
        rows = slice(first, first + ROWS)
        seen = sinks = None
        if piece.positions is not None:
            at = frame.query_positions(query.device)[:, None, rows]
            seen = visible(at, piece.positions, frame.window, frame.sinks)
            if met is not None:
                sinks = (piece.positions >= 0) & (piece.positions < frame.sinks)
        own = scoring if met is None else replace(scoring, sink_query=met[:, :, rows])
        keys, values, expand = piece.keys, piece.values, piece.expand
        yield _Part(first, query[:, :, rows], keys, values, own, seen, piece.bias, sinks, expand=expand)


def _new_parts(query: Tensor, new: tuple[Tensor, Tensor], frame: Frame, scoring: Scoring) -> Iterator[_Part]:
    """All queries against the tokens of their own pass."""
    bounded = frame.window is not None and (frame.window < frame.tokens or scoring.sink_query is not None)
    if not frame.ragged and not bounded and (frame.tokens == 1 or _has_kernel(query, new, scoring)):
        yield _Part(0, query, *new, scoring, causal=frame.tokens > 1)
        return
    for begin, piece in _in_pieces(new, frame, query.device):
        yield from _parts(query, piece, frame, scoring, begin)


def _in_pieces(new: tuple[Tensor, Tensor], frame: Frame, device: torch.device) -> list[tuple[int, Piece]]:
    """The new tokens in pieces, each with the first query that can see any of it."""
    positions = frame.query_positions(device)[:, None]
    cuts = [slice(begin, begin + PIECE) for begin in range(0, frame.tokens, PIECE)]
    return [(cut.start, Piece(new[0][:, :, cut], new[1][:, :, cut], positions[:, :, cut])) for cut in cuts]


class _Merged:
    """One softmax over all parts so far: output and log-sum-exp of every ``ROWS`` queries."""

    def __init__(self, query: Tensor):
        wide = torch.promote_types(query.dtype, torch.float32)
        self.states = [
            (
                torch.zeros_like(rows, dtype=wide),
                torch.full(rows.shape[:3], -torch.inf, dtype=wide, device=rows.device),
            )
            for rows in query.split(ROWS, dim=2)
        ]

    @property
    def output(self) -> Tensor:
        """``[B, H, T, D]`` float32 or wider."""
        return torch.cat([output for output, _ in self.states], dim=2)

    def lse(self, part: _Part) -> Tensor:
        """Of the queries of a part, ``[B, K, G, T, 1]``."""
        lse = self.states[part.begin // ROWS][1]
        return lse.unflatten(1, (part.key.shape[1], -1))[..., None]

    def add(self, begin: int, output: Tensor, lse: Tensor) -> None:
        """Let the queries from ``begin`` on, which ``ROWS`` divides, see more keys."""
        rows = zip(output.split(ROWS, dim=2), lse.split(ROWS, dim=2), strict=True)
        for index, (more, its) in enumerate(rows, begin // ROWS):
            before, known = self.states[index]
            merged = torch.logaddexp(known, its.to(known.dtype))
            kept, added = _exp(known - merged)[..., None], _exp(its - merged)[..., None]
            self.states[index] = (before * kept + more * added, merged)

    def add_logits(self, logits: Tensor) -> None:
        """Put one more logit of every head, ``[H]``, into the denominator."""
        for index, (output, lse) in enumerate(self.states):
            wide = logits.to(lse.dtype)[None, :, None].expand_as(lse)
            self.add(index * ROWS, torch.zeros_like(output), wide)


def _mass(parts: Iterator[_Part], total: _Merged) -> Tensor:
    """The weight that each key of the parts received, ``[B, K, N]`` float32."""
    return torch.stack([_exp(part.scores() - total.lse(part)).sum(dim=(2, 3)).float() for part in parts]).sum(
        0
    )


def _exp(exponent: Tensor) -> Tensor:
    """``exp``, and 0 where nothing was seen, which reads ``-inf - -inf``."""
    return exponent.exp().nan_to_num(nan=0.0)
