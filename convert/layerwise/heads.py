"""Merging one whole layer: every group by its method, with the query heads and outputs that belong to it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from convert.heads import AttentionHeads, Rotary
from convert.merging.inputs import Inputs
from convert.merging.method import Groups, MergeContext, MergeMethod, Pool


@dataclass(frozen=True)
class Setting:
    """What a layer's merging depends on beside its heads.

    Args:
        method: The merge method.
        rotary: Which dimensions of a key turn.
        key_norm: Whether a norm stands between key projection and rotary; keys are then averaged.
        inputs: What the projections read.
        context: For pooling methods.
    """

    method: MergeMethod
    rotary: Rotary
    key_norm: bool
    inputs: Inputs
    context: MergeContext


def merge_layer(heads: AttentionHeads, groups: Groups, setting: Setting) -> AttentionHeads:
    """Merge the KV heads of a layer.

    Args:
        heads: In columns (float64, biases inside the weights).
        groups: Equal-sized groups of source KV heads; their order is the order of the new heads.
        setting: Method and circumstances.

    Returns:
        The merged heads in columns; query heads and outputs follow their KV heads. A group of one stays.

    Holds: as many heads as the source in its order come back bit for bit (tests/convert/test_closed_form.py).
    """
    parts = [merge_group(heads, group, setting) for group in groups]
    merged = {
        role: torch.cat([getattr(part, role) for part in parts]) for role in heads.parts() if role != "o_bias"
    }
    return replace(heads, **merged)


def reorder(heads: AttentionHeads, groups: Groups) -> AttentionHeads:
    """Put KV heads into the order of their groups, query heads and outputs along with them."""
    return select(heads, [head for group in groups for head in group])


def merge_group(layer: AttentionHeads, group: Sequence[int], setting: Setting) -> AttentionHeads:
    """Make one KV head of a group.

    Args:
        layer: All heads of the layer, in columns.
        group: The KV heads that become one.
        setting: Method and circumstances.

    Returns:
        One KV head and the query heads of the group; unchanged if the group is one head.
    """
    heads, method, n = select(layer, group), setting.method, len(group)
    if n == 1:
        return heads
    if method.pool is not None:
        return _pool(heads, group[0], method.pool, setting.context)
    if method.keys is None or method.values is None:
        raise ValueError(f"method {method.name} neither pools nor merges keys and values")
    q, o = heads.q.unflatten(0, (n, -1)), heads.o.unflatten(0, (n, -1))
    k = heads.k.mean(dim=0)
    k_norm = None if heads.k_norm is None else heads.k_norm.mean(dim=0, keepdim=True)
    if not setting.key_norm:
        k, q = method.keys(heads.k, q, setting.rotary, setting.inputs)
    v, o = method.values(heads.v, o, setting.inputs.of(group, len(layer.k)))
    return replace(heads, q=q.flatten(0, 1), k=k[None], v=v[None], o=o.flatten(0, 1), k_norm=k_norm)


def _pool(heads: AttentionHeads, place: int, pool: Pool, context: MergeContext) -> AttentionHeads:
    whole = (tuple(range(len(heads.k))),)
    pooled = {}
    for role in ("k", "v", "k_norm"):
        rows = getattr(heads, role)
        if rows is not None:
            wide = rows if rows.dim() == 3 else rows[..., None]
            kind = "norm" if role == "k_norm" else "weight"
            named = replace(context, tensor=f"{context.tensor}:{role}{place}", kind=kind)
            merged = torch.from_numpy(pool(wide.cpu().numpy(), whole, named)).to(rows.device)
            pooled[role] = merged if rows.dim() == 3 else merged[..., 0]
    return replace(heads, **pooled)


def select(heads: AttentionHeads, chosen: Sequence[int]) -> AttentionHeads:
    """Take some KV heads in the given order, query heads and outputs along with them."""
    kv_heads = len(heads.k)

    def pick(tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (kv_heads, -1))[list(chosen)].flatten(0, 1)

    return replace(
        heads, **{role: pick(tensor) for role, tensor in heads.parts().items() if role != "o_bias"}
    )
