"""Decoding on CUDA: one query per row against the cache as it is stored, by a kernel that splits its columns.

Not a backend of its own: those that run on CUDA hand it the calls that it can serve.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from patches.attention.documents import Attend
from patches.attention.scoring import Scoring
from patches.cache.unwritten import Unwritten
from patches.frame import Frame
from patches.kernels import language
from patches.kernels.decode import Reading, decode, decode_and_write
from patches.kernels.tensors import dense

HEAD_DIM_MAX = 256
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
    """Why the kernel cannot serve this call, or None."""
    if query.shape[2] != 1 or frame.step.documents is not None:
        return "it serves one query per row"
    if frame.window is not None and frame.layout != "slots":
        return "it serves a cache that holds tokens"
    if query.device.type != "cuda" and not (language.interpreting() and query.device.type == "cpu"):
        return f"the tensors are on {query.device.type}"
    reason = language.missing()
    if reason is not None:
        return reason
    if query.dtype not in DTYPES or (query.device.type == "cpu" and query.dtype == torch.bfloat16):
        return f"it does not take {str(query.dtype).removeprefix('torch.')} on {query.device.type}"
    if query.shape[-1] > HEAD_DIM_MAX:
        return f"head_dim={query.shape[-1]} is above {HEAD_DIM_MAX}"
    if torch.is_grad_enabled() and query.requires_grad:
        return "it has no gradient"
    return "it has no attention dropout" if scoring.dropout else None


def attend(query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring) -> tuple[Tensor, None]:
    """Attend with one query per row; arguments and output as ``patches.attention.eager.attend``, no weights.

    Holds: equals the eager reference in every layout that it serves (tests/patches/test_decode.py).
    """
    reading = _reading(query, frame, scoring)
    output = decode(
        dense(query), dense(key), dense(value), reading.starts, reading.lasts, reading.sinks, reading.scale,
        reading.softcap, reading.sink_logits, reading.sink_query,
    )  # fmt: skip
    return output, None


def attend_and_write(query: Tensor, unwritten: Unwritten, frame: Frame, scoring: Scoring) -> Tensor:
    """Attend to a cache and to a token that the same launch writes into it.

    Args:
        query: ``[B, H, 1, D]``; the kernel does not refuse the call.
        unwritten: The cache, which is changed in place, and the token.
        frame: Where they stand once it is written.
        scoring: How products become weights.

    Returns:
        ``[B, H, 1, D]``.

    Holds: equals writing first, in every layout that it serves (tests/patches/test_unwritten.py).
    """
    reading = _reading(query, frame, scoring)
    return decode_and_write(dense(query), unwritten.stores, unwritten.token, unwritten.column, reading)


def _reading(query: Tensor, frame: Frame, scoring: Scoring) -> Reading:
    """What the kernel needs to know of a call."""
    starts = frame.step.starts if frame.window is None else None
    lasts = None
    if frame.ragged:
        # Slots fill from the first, so a row's own position is its last; columns are those of all rows.
        last = frame.first if frame.window is not None else frame.step.past
        lasts = torch.as_tensor(last, device=query.device).reshape(-1)
    met = scoring.sink_query
    softcap = None if scoring.softcap is None else float(scoring.softcap)
    turned = None if met is None else dense(met)
    return Reading(starts, lasts, frame.sinks, float(scoring.scale), softcap, scoring.sink_logits, turned)


def before(backend: Attend) -> Attend:
    """A backend to which only those calls come that the kernel leaves."""

    def attend_first(
        query: Tensor, key: Tensor, value: Tensor, frame: Frame, scoring: Scoring
    ) -> tuple[Tensor, Tensor | None]:
        able = refusal(query, frame, scoring) is None
        return (attend if able else backend)(query, key, value, frame, scoring)

    return attend_first


def unless(
    backend_refusal: Callable[[Tensor, Frame, Scoring], str | None],
) -> Callable[[Tensor, Frame, Scoring], str | None]:
    """Why such a pair cannot serve a call, or None."""

    def pair_refusal(query: Tensor, frame: Frame, scoring: Scoring) -> str | None:
        return refusal(query, frame, scoring) and backend_refusal(query, frame, scoring)

    return pair_refusal
