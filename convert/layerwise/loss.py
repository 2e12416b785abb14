"""What a merged layer loses, in closed form: the same measure for every method."""

from dataclasses import dataclass

from torch import Tensor

from convert.heads import AttentionHeads, Rotary
from convert.merging.inputs import Inputs
from convert.merging.rotation import split_rotary


@dataclass(frozen=True)
class Loss:
    """Squared errors of one layer's or group's scores and outputs, and what they are shares of.

    Args:
        keys: Expected squared error of the scores, over independent queries and keys.
        values: Expected squared error of what values contribute to the output, head by head.
        key_total: The expected square of the source's scores.
        value_total: The expected square of the source's contributions.
    """

    keys: float
    values: float
    key_total: float
    value_total: float

    @property
    def key_share(self) -> float:
        """Error of the scores, 0 to about 1."""
        return self.keys / self.key_total if self.key_total else 0.0

    @property
    def value_share(self) -> float:
        """Error of the contributions, 0 to about 1."""
        return self.values / self.value_total if self.value_total else 0.0


def measure_loss(source: AttentionHeads, merged: AttentionHeads, rotary: Rotary, inputs: Inputs) -> Loss:
    """Compare merged heads with their source, query head by query head.

    Args:
        source: Heads with weights ``[.., X]`` (a bias as the last column), in the order of ``merged``.
        merged: As many query heads, fewer KV heads.
        rotary: Which dimensions turn.
        inputs: What the projections read.

    Returns:
        The loss. A norm between projection and rotary is not considered.
    """
    heads = len(source.q)
    key_parts = [_score_gram(a, b, rotary, inputs, heads) for a, b in _pairs(source, merged)]
    value_parts = [_output_gram(a, b, inputs, heads) for a, b in _pairs(source, merged)]
    keys, values = (before - 2 * cross + after for before, cross, after in (key_parts, value_parts))
    return Loss(max(keys, 0.0), max(values, 0.0), key_parts[0], value_parts[0])


def _pairs(source: AttentionHeads, merged: AttentionHeads) -> list[tuple[AttentionHeads, AttentionHeads]]:
    return [(source, source), (source, merged), (merged, merged)]


def _repeat(heads: Tensor, count: int) -> Tensor:
    return heads.repeat_interleave(count // len(heads), dim=0)


def _score_gram(a: AttentionHeads, b: AttentionHeads, rotary: Rotary, inputs: Inputs, heads: int) -> float:
    """The inner product of two layers' scores as functions of two inputs and their distance."""
    total = 0.0
    (qa, qa_still), (qb, qb_still) = (split_rotary(inputs.seen(side.q), rotary) for side in (a, b))
    (ka, ka_still), (kb, kb_still) = (split_rotary(inputs.seen(side.k), rotary) for side in (a, b))
    if rotary.dims:
        # Averaged over distances, frequencies do not mix; each gives half of a product of complex rows.
        queries = (qa.conj() * qb).sum(dim=-1)
        keys = (_repeat(ka, heads).conj() * _repeat(kb, heads)).sum(dim=-1)
        total += 0.5 * float((queries.conj() * keys).real.sum())
    if qa_still.shape[1]:
        queries_still = qa_still @ qb_still.mT
        keys_still = _repeat(ka_still, heads) @ _repeat(kb_still, heads).mT
        total += float((queries_still * keys_still).sum())
    return total


def _output_gram(a: AttentionHeads, b: AttentionHeads, inputs: Inputs, heads: int) -> float:
    """The inner product of two layers' contributions to the output, head by head."""
    readers = a.o.mT @ b.o
    rows = _repeat(inputs.seen(a.v), heads) @ _repeat(inputs.seen(b.v), heads).mT
    return float((readers * rows).sum())
