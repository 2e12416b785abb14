"""Where the rows of a batch begin, read from the inputs of a forward pass; and what a window cannot take."""

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from patches.cache.windowed import WindowedCache
from patches.frame import Document, Step, slot_of
from patches.policy import PolicyError, WindowPolicy


def check_cache(cache: object) -> WindowedCache:
    """The cache itself.

    Raises:
        PolicyError: it is not a ``WindowedCache``.
    """
    if not isinstance(cache, WindowedCache):
        raise PolicyError(
            f"past_key_values is a {type(cache).__name__}; this model keeps its tokens in its own cache: "
            "pass patches.WindowedCache(model.config), or nothing"
        )
    return cache


def next_step(
    policy: WindowPolicy,
    tokens: int,
    attention_mask: Tensor | None,
    cache: Cache | None,
    device: torch.device,
) -> Step:
    """Where the rows begin and how far they have come; tells the cache.

    Args:
        policy: Of the model.
        tokens: ``T``, new tokens of every row.
        attention_mask: ``[B, past + T]`` or None.
        cache: What was seen before, or None.
        device: Where the pass runs.

    Raises:
        PolicyError: the inputs ask for what a window cannot give.
    """
    windowed = None if cache is None else check_cache(cache)
    if windowed is not None and windowed.policy != policy:
        raise PolicyError(
            f"past_key_values was made for the windows {windowed.policy}, and this model has {policy}; make "
            "one with patches.WindowedCache(model.config) or patches.make_cache(model, ...)"
        )
    past = 0 if windowed is None else windowed.past(tokens, device)
    if attention_mask is not None:
        _check_shape(attention_mask, past, tokens)
    if windowed is not None and isinstance(past, Tensor):
        if attention_mask is not None:
            windowed.check_room(attention_mask.shape[1])
        return _decode_step(policy, past, windowed.starts)
    # Once every row has begun, one more token cannot change where they did: a decode step reads nothing.
    known = windowed is not None and windowed.begun and tokens == 1
    if windowed is not None and past and (attention_mask is None or known):
        return Step(past, windowed.starts, policy)
    starts = None if attention_mask is None else row_starts(attention_mask, windowed is not None)
    if windowed is not None:
        windowed.begin(starts, int(past) + tokens)
    return Step(past, starts, policy)


def _decode_step(policy: WindowPolicy, past: Tensor, starts: Tensor | None) -> Step:
    """One token after ``past`` (``[1]``) columns; where it goes is computed here, once for all layers."""
    first = past if starts is None else past - starts
    slots = None if policy.size is None else cast(Tensor, slot_of(first, policy.size, policy.sinks))
    return Step(past, starts, policy, slots=slots)


def find_documents(
    batch: int,
    tokens: int,
    position_ids: Tensor | None,
    attention_mask: Tensor | None,
    others: dict[str, Any],
) -> tuple[Document, ...] | None:
    """The documents of packed rows: positions that restart, or the bounds that kernels for packed rows take.

    Args:
        batch: ``B``, rows.
        tokens: ``T``, tokens of every row, of which none was seen before.
        position_ids: ``[1 or B, T]`` or None.
        attention_mask: ``[B, T]`` or None.
        others: The other arguments of the pass; ``cu_seq_lens_q`` is ``[documents + 1]`` for a single row.

    Returns:
        Documents in the order of rows and columns, which they fill; None where every row is one.

    Raises:
        PolicyError: positions skip some, or rows are packed and padded at once.
    """
    bounds = others.get("cu_seq_lens_q")
    if bounds is not None:
        ends = bounds.tolist()
        if batch != 1 or ends[0] != 0 or ends[-1] != tokens:
            raise PolicyError(
                f"cu_seq_lens_q bounds tokens {ends[0]} to {ends[-1]} of {batch} rows; it must bound the "
                f"{tokens} tokens of one row"
            )
        return tuple(Document(0, begin, end) for begin, end in pairwise(ends) if begin < end)
    if position_ids is None:
        return None
    jump = (position_ids.diff(dim=-1) != 1).expand(batch, -1)
    padded = attention_mask is not None and not bool(attention_mask.all())
    if padded:
        # Padding has any position.
        real = attention_mask.bool()  # type: ignore[union-attr]
        jump = jump & real[:, 1:] & real[:, :-1]
    if not bool(jump.any()):
        return None
    if padded:
        raise PolicyError(
            "position_ids restart in rows that are padded; pack documents or pad them, not both"
        )
    if bool((position_ids[:, 1:].expand(batch, -1)[jump] != 0).any()):
        raise PolicyError(
            "position_ids jump inside a row; they rise by one, and restart at 0 with a document"
        )
    documents = []
    for row, jumps in enumerate(jump.cpu()):
        ends = [0, *(jumps.nonzero().flatten() + 1).tolist(), tokens]
        documents += [Document(row, begin, end) for begin, end in pairwise(ends)]
    return tuple(documents)


def _check_shape(attention_mask: Tensor, past: int | Tensor, tokens: int) -> None:
    if attention_mask.ndim != 2:
        raise PolicyError(
            f"attention_mask has {attention_mask.ndim} dimensions; a windowed model makes its own mask and "
            "takes only padding, as [batch, tokens]"
        )
    if isinstance(past, int) and attention_mask.shape[1] != past + tokens:
        raise PolicyError(
            f"attention_mask covers {attention_mask.shape[1]} tokens; it must cover the {past} cached and "
            f"the {tokens} new ones"
        )


def row_starts(attention_mask: Tensor, cached: bool = True) -> Tensor | None:
    """``[B]``, how many columns of padding precede each row; None when none does.

    Args:
        attention_mask: ``[B, N]``, zeros for padding.
        cached: Whether there is a cache, which takes padding on the left alone.

    Raises:
        PolicyError: a row has holes, or padding on the right and a cache.
    """
    real = attention_mask.bool()
    if bool(real.all()):
        return None
    starts = (real.cumsum(-1) == 0).sum(-1)
    tokens = real.sum(-1)
    ends = real.shape[-1] - real.flip(-1).to(torch.int64).argmax(-1)
    if bool(((ends - starts != tokens) & (tokens > 0)).any()):
        raise PolicyError(
            "attention_mask has zeros between the tokens of a row; a window needs rows without holes"
        )
    if cached and bool(((ends < real.shape[-1]) & (tokens > 0)).any()):
        raise PolicyError("attention_mask has padding on the right; pad on the left to use a cache")
    return starts if bool(starts.any()) else None
