"""The algebra of procrustes and subspace: what they must not lose, and that nothing beats the subspace."""

import pytest
import torch
from torch import Tensor

from convert.heads import AttentionHeads, Rotary
from convert.layerwise.columns import from_columns, to_columns
from convert.layerwise.heads import Setting, merge_layer, reorder
from convert.layerwise.loss import measure_loss
from convert.merging import METHODS
from convert.merging.inputs import Inputs, inputs_from_moment
from convert.merging.method import MergeContext
from convert.merging.rotation import join_rotary, split_rotary

HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 8, 4, 6, 20
ROTARIES = [Rotary(0), Rotary(6), Rotary(6, interleaved=True), Rotary(4), Rotary(4, interleaved=True)]
CONTEXT = MergeContext("layer", "weight", 0, 0.02)
PAIRS = ((0, 1), (2, 3))
CROSSED = ((0, 3), (1, 2))

rotaries = pytest.mark.parametrize("rotary", ROTARIES, ids=str)


def draw(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def draw_heads(seed: int = 0) -> AttentionHeads:
    return AttentionHeads(
        q=draw(HEADS, HEAD_DIM, HIDDEN, seed=seed),
        k=draw(KV_HEADS, HEAD_DIM, HIDDEN, seed=seed + 1),
        v=draw(KV_HEADS, HEAD_DIM, HIDDEN, seed=seed + 2),
        o=draw(HEADS, HIDDEN, HEAD_DIM, seed=seed + 3),
    )


def draw_inputs() -> Inputs:
    samples = draw(300, HIDDEN, seed=9) * torch.linspace(0.1, 2, HIDDEN, dtype=torch.float64)
    return inputs_from_moment(samples.T @ samples / len(samples))


def setting(method: str, rotary: Rotary, inputs: Inputs | None = None, key_norm: bool = False) -> Setting:
    return Setting(METHODS[method], rotary, key_norm, inputs or Inputs(), CONTEXT)


def turn(heads: AttentionHeads, rotary: Rotary, orthogonal: bool) -> AttentionHeads:
    """Give KV heads that are copies in pairs, but for moves that change nothing, each its own."""
    repeat = torch.tensor([0, 0, 2, 2])
    k, v, q, o = heads.k[repeat], heads.v[repeat], heads.q.unflatten(0, (4, 2)), heads.o.unflatten(0, (4, 2))
    still = HEAD_DIM - rotary.dims
    for head in range(KV_HEADS):
        matrix = draw(HEAD_DIM, HEAD_DIM, seed=50 + head)
        matrix = torch.linalg.qr(matrix).Q if orthogonal else matrix
        v[head], o[head] = matrix @ v[head], o[head] @ torch.linalg.inv(matrix)
        angle = draw(rotary.dims // 2, seed=60 + head)
        size = torch.ones_like(angle) if orthogonal else draw(rotary.dims // 2, seed=70 + head).exp()
        factor = torch.polar(size, angle)[:, None]
        free = draw(still, still, seed=80 + head) if still else torch.eye(0, dtype=torch.float64)
        free = torch.linalg.qr(free).Q if orthogonal and still else free
        turning, rest = split_rotary(k[head], rotary)
        k[head] = join_rotary(factor * turning, free @ rest, rotary)
        turning, rest = split_rotary(q[head], rotary)
        undone = torch.linalg.inv(free).T if still else free
        q[head] = join_rotary(turning / factor.conj(), undone @ rest, rotary)
    return AttentionHeads(q.flatten(0, 1), k, v, o.flatten(0, 1))


@rotaries
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("method", "orthogonal"), [("procrustes", True), ("subspace", False)])
def test_heads_equal_up_to_free_moves_lose_nothing(
    method: str, orthogonal: bool, known: bool, rotary: Rotary
) -> None:
    source = turn(draw_heads(), rotary, orthogonal)
    inputs = draw_inputs() if known else Inputs()
    merged = merge_layer(source, PAIRS, setting(method, rotary, inputs))
    loss = measure_loss(source, merged, rotary, inputs)
    assert loss.key_share < 1e-10
    assert loss.value_share < 1e-10
    assert (
        measure_loss(source, merge_layer(source, PAIRS, setting("mean", rotary)), rotary, inputs).key_share
        > 0.1
    )


@rotaries
@pytest.mark.parametrize("groups", [PAIRS, CROSSED, ((0, 1, 2, 3),)])
def test_no_method_loses_less_than_subspace(groups, rotary: Rotary) -> None:
    source, inputs = draw_heads(5), draw_inputs()
    losses = {
        method: measure_loss(
            reorder(source, groups),
            merge_layer(source, groups, setting(method, rotary, inputs)),
            rotary,
            inputs,
        )
        for method in ("mean", "first", "procrustes", "subspace")
    }
    best = losses.pop("subspace")
    for other in losses.values():
        assert best.values < other.values
        assert best.keys < other.keys


@rotaries
def test_loss_is_what_attention_would_see(rotary: Rotary) -> None:
    source, inputs = draw_heads(2), draw_inputs()
    merged = merge_layer(source, PAIRS, setting("subspace", rotary, inputs))
    loss = measure_loss(source, merged, rotary, inputs)
    keys = values = 0.0
    for head in range(HEADS):
        before, after = head // 2, head // 4
        gone = source.o[head] @ inputs.seen(source.v[before]) - merged.o[head] @ inputs.seen(merged.v[after])
        values += float(gone.square().sum())
        keys += mean_square_of_scores(
            [(source.q[head], source.k[before]), (merged.q[head], merged.k[after])], rotary, inputs
        )
    assert loss.values == pytest.approx(values)
    assert loss.keys == pytest.approx(keys)


def mean_square_of_scores(sides: list[tuple[Tensor, Tensor]], rotary: Rotary, inputs: Inputs) -> float:
    """Expected squared difference of two heads' scores, every frequency averaged over its own angles."""
    total = 0.0
    parts = [[split_rotary(inputs.seen(rows), rotary) for rows in side] for side in sides]
    for frequency in range(rotary.dims // 2):
        for angle in torch.linspace(0, 2 * torch.pi, 9, dtype=torch.float64)[:-1]:
            scores = [
                (
                    torch.outer(q[0][frequency].conj(), k[0][frequency])
                    * torch.polar(torch.tensor(1.0).double(), angle)
                ).real
                for q, k in parts
            ]
            total += float((scores[0] - scores[1]).square().sum()) / 8
    still = [q[1].T @ k[1] for q, k in parts]
    return total + float((still[0] - still[1]).square().sum())


@pytest.mark.parametrize("method", ["mean", "first", "procrustes", "subspace"])
def test_as_many_heads_as_the_source_come_back_bit_for_bit(method: str) -> None:
    source = draw_heads()
    merged = merge_layer(source, ((0,), (1,), (2,), (3,)), setting(method, Rotary(6)))
    assert all(torch.equal(part, source.parts()[role]) for role, part in merged.parts().items())


def test_queries_and_outputs_follow_their_group() -> None:
    source = draw_heads()
    moved = reorder(source, CROSSED)
    assert torch.equal(moved.k, source.k[[0, 3, 1, 2]])
    assert torch.equal(moved.q, source.q[[0, 1, 6, 7, 2, 3, 4, 5]])
    assert torch.equal(moved.o, source.o[[0, 1, 6, 7, 2, 3, 4, 5]])


def test_normed_keys_are_averaged_and_values_are_not() -> None:
    source = draw_heads()
    merged = merge_layer(source, PAIRS, setting("subspace", Rotary(6), key_norm=True))
    assert torch.equal(merged.k, torch.stack([source.k[:2].mean(0), source.k[2:].mean(0)]))
    assert torch.equal(merged.q, source.q)
    assert not torch.equal(merged.o, source.o)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_inputs_that_show_few_directions_are_damped(rank: int) -> None:
    samples = draw(rank, HIDDEN, seed=1)
    merged = merge_layer(
        draw_heads(), PAIRS, setting("subspace", Rotary(4), inputs_from_moment(samples.T @ samples))
    )
    assert all(bool(part.isfinite().all()) for part in merged.parts().values())


def test_heads_without_queries_or_outputs_stay_finite() -> None:
    source = draw_heads()
    source.q[:4] = 0
    source.o[2:5] = 0
    source.v[0] = 0
    merged = merge_layer(source, PAIRS, setting("subspace", Rotary(4)))
    assert all(bool(part.isfinite().all()) for part in merged.parts().values())


def test_moment_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        inputs_from_moment(torch.full((3, 3), torch.nan, dtype=torch.float64))


def test_merged_heads_are_as_large_as_their_sources() -> None:
    source = draw_heads()
    merged = merge_layer(source, PAIRS, setting("subspace", Rotary(6)))
    for role in ("k", "v"):
        before, after = (getattr(heads, role).square().mean() for heads in (source, merged))
        assert after == pytest.approx(before)


def test_biases_become_a_column_and_come_back() -> None:
    plain = draw_heads()
    biased = AttentionHeads(
        **plain.parts(),
        q_bias=draw(HEADS, HEAD_DIM, seed=20),
        v_bias=draw(KV_HEADS, HEAD_DIM, seed=21),
    )
    wide = to_columns(biased)
    assert wide.k.shape == (KV_HEADS, HEAD_DIM, HIDDEN + 1)
    assert not wide.k[..., -1].any()
    again = from_columns(wide, biased)
    assert again.parts().keys() == biased.parts().keys()
    assert all(torch.equal(part, biased.parts()[role]) for role, part in again.parts().items())
    assert to_columns(plain).k.shape == (KV_HEADS, HEAD_DIM, HIDDEN)


def test_attention_that_leaves_values_as_they_are_changes_nothing() -> None:
    source = draw_heads()
    values = source.v.repeat_interleave(HEADS // KV_HEADS, 0)
    plain = merge_layer(source, PAIRS, setting("subspace", Rotary(6)))
    same = merge_layer(source, PAIRS, setting("subspace", Rotary(6), Inputs(attended=values @ values.mT)))
    assert (same.v.abs() - plain.v.abs()).abs().max() < 1e-6


def test_only_what_attention_leaves_of_values_is_kept() -> None:
    source = draw_heads()
    # Attention leaves half of each head's directions: those of a pair fit into one head.
    left = draw(KV_HEADS, HEAD_DIM, HEAD_DIM // 2, seed=30).repeat_interleave(HEADS // KV_HEADS, 0)
    inputs = Inputs(attended=left @ left.mT)
    merged = merge_layer(source, PAIRS, setting("subspace", Rotary(6), inputs))
    blind = merge_layer(source, PAIRS, setting("subspace", Rotary(6)))
    for head in range(HEADS):
        lost = []
        for result in (merged, blind):
            # The output that a head gives of its values is its own less what the shared head does not hold.
            gone = source.o[head] @ source.v[head // 2] - result.o[head] @ result.v[head // 4]
            onto_values = gone @ torch.linalg.pinv(source.v[head // 2])
            lost.append(float((onto_values @ left[head]).norm() / (source.o[head] @ left[head]).norm()))
        assert lost[0] < 0.3 < lost[1]
