"""The sink part of a call, merged into its window part, in plain matrix products: the twin of
``patches.kernels.sinks``, and what runs where Triton does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sinks:
    """What one call has beside its window part.

    Attributes:
        query: ``[B, H, T, D]``, the queries as the sinks' keys meet them.
        key: ``[B, K, S, D]``, the keys of positions ``[0, S)``; ``S`` may be 0.
        value: the same.
        logits: ``[H]``, one more logit per head in the denominator, or None.
        first: Position of the first query; query ``t`` sees the sinks up to ``first + t``.
        scale: Factor on the products.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    logits: Tensor | None
    first: int
    scale: float

    def grouped(self, tensor: Tensor) -> Tensor:
        """``[B, H, ...]`` to ``[B, K, G, ...]`` in float32."""
        return tensor.float().unflatten(1, (self.key.shape[1], -1))

    def scores(self) -> Tensor:
        """``[B, K, G, T, S]`` float32, ``-inf`` for sinks after the query."""
        products = torch.einsum("bkgtd,bksd->bkgts", self.grouped(self.query), self.key.float())
        position = self.first + torch.arange(self.query.shape[2], device=self.query.device)
        late = torch.arange(self.key.shape[2], device=self.query.device) > position[:, None]
        return (products * self.scale).masked_fill(late, -torch.inf)


def forward(part: Tensor, part_lse: Tensor, sinks: Sinks) -> tuple[Tensor, Tensor]:
    """Put the sinks under one softmax with the window part.

    Args:
        part: ``[B, H, T', D]``, output of the window part for the last ``T'`` queries; the queries before
            them see sinks only.
        part_lse: ``[B, H, T']`` float32, its log-sum-exp, ``-inf`` on empty rows.
        sinks: The rest of the softmax.

    Returns:
        Output ``[B, H, T, D]`` in the dtype of the query, and its log-sum-exp ``[B, H, T]`` float32.
    """
    skipped = sinks.query.shape[2] - part.shape[2]
    lse = torch.nn.functional.pad(part_lse.float(), (skipped, 0), value=-torch.inf)
    scores = sinks.scores()
    merged = lse
    if scores.shape[-1]:
        merged = torch.logaddexp(merged, torch.logsumexp(scores, dim=-1).flatten(1, 2))
    if sinks.logits is not None:
        merged = torch.logaddexp(merged, sinks.logits.float()[:, None])
    weights = torch.exp(scores - sinks.grouped(merged).unsqueeze(-1))
    output = torch.einsum("bkgts,bksd->bkgtd", weights, sinks.value.float()).flatten(1, 2)
    output[:, :, skipped:] += torch.exp(lse - merged)[:, :, skipped:, None] * part.float()
    return output.to(sinks.query.dtype), merged


def backward(
    grad: Tensor, output: Tensor, lse: Tensor, d_part: Tensor | None, sinks: Sinks
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The sinks' share of the gradient of the merged softmax.

    Args:
        grad: ``[B, H, T, D]``, gradient of the output.
        output: What ``forward`` gave.
        lse: the same.
        d_part: ``[B, H, T', D]``, gradient of the last ``T'`` queries from the window part, added before
            rounding; None where the sinks meet queries of their own.
        sinks: As in ``forward``.

    Returns:
        Gradients of the sinks' query, key, value and logits, each in the dtype of what it belongs to.
    """
    scores = sinks.scores()
    weights = torch.exp(scores - sinks.grouped(lse).unsqueeze(-1))
    grads = sinks.grouped(grad)
    delta = (grad.float() * output.float()).sum(-1)
    d_weights = torch.einsum("bkgtd,bksd->bkgts", grads, sinks.value.float())
    d_scores = weights * (d_weights - sinks.grouped(delta).unsqueeze(-1)) * sinks.scale
    d_query = torch.einsum("bkgts,bksd->bkgtd", d_scores, sinks.key.float()).flatten(1, 2)
    if d_part is not None:
        d_query[:, :, d_query.shape[2] - d_part.shape[2] :] += d_part.float()
    d_key = torch.einsum("bkgts,bkgtd->bksd", d_scores, sinks.grouped(sinks.query))
    d_value = torch.einsum("bkgts,bkgtd->bksd", weights, grads)
    d_logits = None
    if sinks.logits is not None:
        weight = torch.exp(sinks.logits.float()[:, None] - lse)
        d_logits = -(weight * delta).sum((0, 2)).to(sinks.logits.dtype)
    return d_query.to(sinks.query.dtype), d_key.to(sinks.key.dtype), d_value.to(sinks.value.dtype), d_logits
