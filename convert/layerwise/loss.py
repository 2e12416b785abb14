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
    before, after = (_see(heads, rotary, inputs) for heads in (source, merged))
    pairs = ((before, before), (before, after), (after, after))
    key_parts = [_score_product(a, b) for a, b in pairs]
    value_parts = [_output_product(a, b) for a, b in pairs]
    keys, values = (first - 2 * cross + last for first, cross, last in (key_parts, value_parts))
    return Loss(max(keys, 0.0), max(values, 0.0), key_parts[0], value_parts[0])


@dataclass(frozen=True)
class _Seen:
    """Projections as plain norms measure them on the inputs, one row of everything per query head."""

    turning_q: Tensor
    still_q: Tensor
    turning_k: Tensor
    still_k: Tensor
    v: Tensor
    o: Tensor


def _see(heads: AttentionHeads, rotary: Rotary, inputs: Inputs) -> _Seen:
    repeats = len(heads.q) // len(heads.k)
    k, v = (inputs.seen(rows).repeat_interleave(repeats, dim=0) for rows in (heads.k, heads.v))
    return _Seen(*split_rotary(inputs.seen(heads.q), rotary), *split_rotary(k, rotary), v, heads.o)


def _score_product(a: _Seen, b: _Seen) -> float:
    """The inner product of two layers' scores as functions of two inputs and their distance."""
    queries = (a.turning_q.conj() * b.turning_q).sum(dim=-1)
    keys = (a.turning_k.conj() * b.turning_k).sum(dim=-1)
    # Averaged over distances, frequencies do not mix; each gives half of a product of complex rows.
    turning = 0.5 * float((queries.conj() * keys).real.sum())
    return turning + float(((a.still_q @ b.still_q.mT) * (a.still_k @ b.still_k.mT)).sum())


def _output_product(a: _Seen, b: _Seen) -> float:
    """The inner product of two layers' contributions to the output, head by head."""
    return float(((a.o.mT @ b.o) * (a.v @ b.v.mT)).sum())
