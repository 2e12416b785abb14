"""The maths of the merge methods."""

import pytest
import torch

from convert import ConvertError
from convert.grouping import adjacent_groups
from convert.merging import METHODS, find_method
from convert.merging.method import MergeContext

CONTEXT = MergeContext("layer.0.k", "weight", seed=3, initializer_range=0.02)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [2, 3, 5, 8])
def test_mean_of_duplicated_heads_is_bit_for_bit(dtype: torch.dtype, copies: int) -> None:
    heads = torch.randn(2, 4, 6).to(dtype)
    merged = METHODS["mean"].pool(heads.repeat_interleave(copies, 0), adjacent_groups(2 * copies, 2), CONTEXT)
    assert torch.equal(merged, heads)


def test_mean_by_hand() -> None:
    heads = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]], [[-1.0, 0.0]], [[2.0, 0.5]]])
    merged = METHODS["mean"].pool(heads, ((0, 1), (2, 3)), CONTEXT)
    assert merged.tolist() == [[[2.0, 4.0]], [[0.5, 0.25]]]


def test_mean_is_rounded_once() -> None:
    # 1 + 2**-8 lies between two bfloat16 numbers; sums kept in bfloat16 lose it on the way.
    heads = torch.tensor([1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0234375]).to(torch.bfloat16)
    merged = METHODS["mean"].pool(heads.reshape(8, 1, 1), (tuple(range(8)),), CONTEXT)
    assert merged.item() == heads.double().mean().to(torch.bfloat16).item()


def test_first_keeps_the_first_of_each_group() -> None:
    heads = torch.randn(6, 2, 3)
    assert torch.equal(METHODS["first"].pool(heads, adjacent_groups(6, 2), CONTEXT), heads[[0, 3]])


def test_random_depends_on_seed_and_tensor_only() -> None:
    def draw(seed: int, tensor: str, kind: str = "weight") -> torch.Tensor:
        context = MergeContext(tensor, kind, seed, 0.02)
        return METHODS["random"].pool(torch.zeros(4, 16, 32), adjacent_groups(4, 2), context)

    assert torch.equal(draw(1, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "a"), draw(2, "a"))
    assert not torch.equal(draw(1, "a"), draw(1, "b"))
    assert 0.018 < draw(1, "a").std().item() < 0.022
    assert not draw(1, "a", "bias").any()


@pytest.mark.parametrize(("source", "wanted"), [(8, 8), (8, 4), (8, 1), (6, 3)])
def test_adjacent_groups_name_every_head_once(source: int, wanted: int) -> None:
    groups = adjacent_groups(source, wanted)
    assert [head for group in groups for head in group] == list(range(source))
    assert {len(group) for group in groups} == {source // wanted}


def test_unknown_method_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConvertError, match="did you mean 'mean'"):
        find_method("maen")
