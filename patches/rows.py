"""Where the rows of a batch begin, read from the inputs of a forward pass; and what a window cannot take."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from patches.cache.windowed import WindowedCache
from patches.frame import Step
from patches.policy import PolicyError, WindowPolicy


def check_cache(cache: object) -> WindowedCache:
    """The cache itself.

    Raises:
        PolicyError: it is not a ``WindowedCache``.
    """
    if not isinstance(cache, WindowedCache):
        raise PolicyError(
            f"past_key_values is a {type(cache).__name__}, which does not keep sinks and a window; pass "
            "patches.WindowedCache(model.config), or nothing"
        )
    return cache


def next_step(
    policy: WindowPolicy,
    tokens: int,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    cache: Cache | None,
    others: dict[str, Any],
) -> Step:
    """Where the rows begin and how far they have come; tells the cache.

    Args:
        policy: Of the model.
        tokens: ``T``, new tokens of every row.
        attention_mask: ``[B, past + T]`` or None.
        position_ids: ``[1 or B, T]`` or None.
        cache: What was seen before, or None.
        others: The other arguments of the pass.

    Raises:
        PolicyError: the inputs ask for what a window cannot give.
    """
    if others.get("cu_seq_lens_q") is not None:
        raise PolicyError(
            "several documents in one row (cu_seq_lens) cannot be windowed; give each its own row"
        )
    windowed = None if cache is None else check_cache(cache)
    past = 0 if windowed is None else windowed.get_seq_length()
    if attention_mask is not None:
        _check_shape(attention_mask, past, tokens)
    # Once every row has begun, one more token cannot change where they did: a decode step reads nothing.
    known = windowed is not None and windowed.begun and tokens == 1
    if windowed is not None and past and (attention_mask is None or known):
        return Step(past, windowed.starts, policy)
    starts = None if attention_mask is None else _row_starts(attention_mask, windowed is not None)
    if windowed is not None:
        windowed.begin(starts, past + tokens)
    if position_ids is not None and past == 0:
        _check_one_document(position_ids, starts)
    return Step(past, starts, policy)


def _check_shape(attention_mask: Tensor, past: int, tokens: int) -> None:
    if attention_mask.ndim != 2:
        raise PolicyError(
            f"attention_mask has {attention_mask.ndim} dimensions; a windowed model makes its own mask and "
            "takes only padding, as [batch, tokens]"
        )
    if attention_mask.shape[1] != past + tokens:
        raise PolicyError(
            f"attention_mask covers {attention_mask.shape[1]} tokens; it must cover the {past} cached and "
            f"the {tokens} new ones"
        )


def _row_starts(attention_mask: Tensor, cached: bool) -> Tensor | None:
    """``[B]``, how many columns of padding precede each row; None when none does."""
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


def _check_one_document(position_ids: Tensor, starts: Tensor | None) -> None:
    """Refuse positions that restart inside a row: the mask would let documents see each other."""
    steady = position_ids.diff(dim=-1) == 1
    if starts is not None:
        steady = steady | (torch.arange(1, position_ids.shape[-1], device=steady.device) <= starts[:, None])
    if not bool(steady.all()):
        raise PolicyError(
            "position_ids restart inside a row (packed documents); give each document its own row"
        )
