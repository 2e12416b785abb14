"""How one attention call turns products of queries and keys into weights."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scoring:
    """The scores of one attention call, beside which keys are seen (``patches.frame``).

    Attributes:
        scale: Factor on the products.
        dropout: Probability of dropping a weight.
        softcap: ``c``; scores become ``c * tanh(score / c)``, as in Gemma 2. None: they stay.
        sink_logits: ``[H]``; one more logit per query head in the denominator, which no value belongs to, as
            in gpt-oss. None: no such logit.
        sink_query: ``[B, H, T, D]``; the queries as the sinks' keys meet them, where these count distances
            inside the cache (``patches.attention.turning``). None: as every other key meets them.
    """

    scale: float
    dropout: float = 0.0
    softcap: float | None = None
    sink_logits: Tensor | None = None
    sink_query: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether scores are scaled products and nothing else."""
        return self.softcap is None and self.sink_logits is None and self.sink_query is None
