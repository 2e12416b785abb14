"""The best shared head that a group's query and output projections can be adapted to, in closed form.

Values may be mixed by any invertible matrix, and keys by one complex number per rotary frequency (any
invertible matrix where nothing turns), if the output and query projections undo it. So the question is not
which average is closest to all heads, but which subspace holds most of what they contribute.
"""

import torch
from torch import Tensor

from convert.heads import Rotary
from convert.merging.inputs import Inputs
from convert.merging.rotation import join_rotary, split_rotary

TINY = 1e-12
"""Eigenvalues below this share of the largest count as zero."""


def merge_values(v: Tensor, o: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Replace the value heads of a group by one that keeps most of the group's output.

    Args:
        v: Value projections, ``[n, D, X]``, float64.
        o: Output projections of the query heads, ``[n, G, E, D]``.
        inputs: What the projections read, and what attention makes of the values.

    Returns:
        The shared value head ``[D, X]``, as large as the source's on average, and ``[n, G, E, D]``.

    Holds: duplicated heads, and heads that differ by a free move, lose nothing
    (tests/convert/test_closed_form.py).
    """
    seen = o if inputs.attended is None else o @ _narrowing(inputs.seen(v), inputs.attended)
    return _shared_subspace(v, torch.einsum("ngei,ngej->nij", seen, seen), o, inputs)


def merge_keys(k: Tensor, q: Tensor, rotary: Rotary, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Replace the key heads of a group by one that keeps most of the group's scores.

    Args:
        k: Key projections, ``[n, D, X]``, float64.
        q: Query projections, ``[n, G, D, X]``.
        rotary: Which dimensions turn; each of their frequencies is one complex number.
        inputs: What the projections read.

    Returns:
        The shared key head ``[D, X]``, as large as the source's on average, and the queries ``[n, G, D, X]``.
    """
    turning_k, still_k = split_rotary(k, rotary)
    turning_q, still_q = split_rotary(q, rotary)
    if rotary.dims:
        turning_k, turning_q = _shared_frequencies(turning_k, turning_q, inputs)
    else:
        turning_k = turning_k[0]
    if still_k.shape[1]:
        # A query projection is to a score what an output projection is to the output, transposed.
        seen = inputs.seen(still_q)
        moments = torch.einsum("ngix,ngjx->nij", seen, seen)
        still_k, adapted = _shared_subspace(still_k, moments, still_q.transpose(-1, -2), inputs)
        still_q = adapted.transpose(-1, -2)
    else:
        still_k = still_k[0]
    return join_rotary(turning_k, still_k, rotary), join_rotary(turning_q, still_q, rotary)


def _shared_subspace(rows: Tensor, moments: Tensor, readers: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Principal components of what readers ``[n, G, A, D]`` with these moments make of ``[n, D, X]``."""
    weigh, unweigh = _root_and_inverse(moments)
    heads, head_dim, _ = rows.shape
    weighed = (weigh @ rows).flatten(0, 1)
    seen = inputs.seen(weighed)
    _, vectors = torch.linalg.eigh(seen @ seen.T)
    basis = vectors[:, -head_dim:].flip(-1)
    shared = basis.T @ weighed
    scale = _match_size(shared, rows)
    return shared * scale, readers @ (unweigh @ basis.view(heads, head_dim, head_dim) / scale)[:, None]


def _narrowing(seen: Tensor, attended: Tensor) -> Tensor:
    """Matrices ``[n, G, D, D]`` that turn values as they are into values as large as attention leaves them.

    Attention averages: what differs from token to token mostly vanishes from a head's output, and what is
    lost of it costs nothing. Of all matrices that turn one second moment into the other these move least: the
    map between Gaussians of optimal transport.

    Args:
        seen: Values on the layer's inputs, ``[n, D, X]``.
        attended: Second moment of what attention makes of them, ``[n, G, D, D]``.
    """
    root, inverse = (part[:, None] for part in _root_and_inverse(seen @ seen.mT))
    middle, _ = _root_and_inverse(root @ attended @ root)
    return inverse @ middle @ inverse


def _shared_frequencies(k: Tensor, q: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The leading component of keys ``[n, F, X]`` per frequency, each weighed by the size of its queries."""
    weights = inputs.seen(q).abs().square().sum(dim=(1, 3)).sqrt()
    weights = weights.clamp(min=TINY * float(weights.max()) + torch.finfo(weights.dtype).tiny)
    weighed = (k * weights[..., None]).transpose(0, 1)
    seen = inputs.seen(weighed)
    _, vectors = torch.linalg.eigh(seen @ seen.mH)
    leading = vectors[..., -1]
    # An eigenvector's phase is free; this one keeps the shared head near the average.
    total = leading.sum(dim=-1, keepdim=True)
    leading = leading * torch.where(total.abs() > TINY, total.conj() / total.abs().clamp(min=TINY), 1.0)
    shared = torch.einsum("fn,fnx->fx", leading.conj(), weighed)
    coefficients = leading / weights.T
    scale = _match_size(shared[:, None], k.transpose(0, 1), dims=(-2, -1))
    shared, coefficients = shared * scale[:, None], coefficients / scale[:, None]
    return shared, q * coefficients.T.conj()[:, None, :, None]


def _root_and_inverse(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric roots of ``[..., D, D]`` and their pseudo-inverses."""
    values, vectors = torch.linalg.eigh(moments)
    values = values.clamp(min=0)
    roots = values.sqrt()
    kept = values > TINY * values.amax(dim=-1, keepdim=True)
    inverse = torch.where(kept, 1 / roots.clamp(min=torch.finfo(roots.dtype).tiny), 0.0)
    return (vectors * roots[..., None, :]) @ vectors.mT, (vectors * inverse[..., None, :]) @ vectors.mT


def _match_size(shared: Tensor, rows: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """The factor that makes a shared head as large as its sources on average; 1 where there is nothing."""
    wanted = rows.abs().square().sum(dim=dims)
    wanted = wanted.mean() if shared.dim() == 2 else wanted / rows.shape[-2]
    found = shared.abs().square().sum(dim=dims)
    usable = (wanted > 0) & (found > 0)
    return torch.where(usable, (wanted / found.clamp(min=torch.finfo(found.dtype).tiny)).sqrt(), 1.0)
