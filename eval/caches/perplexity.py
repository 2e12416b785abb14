"""Perplexity of what is read through the cache: documents in passes, the second half is scored."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eval.checkpoint import Loaded
from eval.contexts import Contexts
from eval.logits import rows_at_a_time, token_losses
from eval.measures.perplexity import exponential
from eval.results import Metric


def measure(
    loaded: Loaded, make: Callable[[], Any], contexts: Contexts, chunk: int
) -> tuple[Metric, list[float]]:
    """Perplexity of the second half of every context, read ``chunk`` tokens at a time.

    Args:
        make: An empty cache.
        contexts: Of one length.
        chunk: Tokens of a pass; a pass sees its own tokens as they are.

    Returns:
        The metric, and the mean loss of every context in nats.
    """
    length = contexts.ids.shape[1]
    losses = read_losses(loaded, make, contexts.ids, length // 2, chunk)
    rows = losses.double().mean(1).tolist()
    label = f"Perplexity from position {length // 2} on, {length:,} tokens"
    counted = contexts.counted(losses.shape[1])
    return exponential(f"perplexity@{length}", label, rows, contexts, counted, True), rows


@torch.inference_mode()
def read_losses(loaded: Loaded, make: Callable[[], Any], ids: Tensor, prompt: int, chunk: int) -> Tensor:
    """Losses in nats of the tokens that are predicted after ``prompt`` tokens have been read at once.

    Args:
        ids: ``[C, T]``.

    Returns:
        ``[C, T - prompt - 1]``, float32, on the CPU: of tokens ``prompt + 1`` and later, whose predictions
        come from passes that read what the cache kept.
    """
    losses = []
    for batch in ids.split(rows_at_a_time(ids.shape[1], loaded.vocabulary, None)):
        tokens, cache, parts = batch.to(loaded.device), make(), []
        loaded.model(input_ids=tokens[:, :prompt], past_key_values=cache, use_cache=True, logits_to_keep=1)
        for begin in range(prompt, ids.shape[1] - 1, chunk):
            end = min(begin + chunk, ids.shape[1] - 1)
            passed = loaded.model(input_ids=tokens[:, begin:end], past_key_values=cache, use_cache=True)
            parts.append(token_losses(passed.logits, tokens[:, begin + 1 : end + 1]).cpu())
        losses.append(torch.cat(parts, dim=1))
    return torch.cat(losses)
