"""The maths of the merge methods."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from convert import ConvertError
from convert.grouping import adjacent_groups
from convert.merging import METHODS, find_method
from convert.merging.method import Groups, MergeContext
from convert.weights.arrays import StoredHeads, StoredTensor, store

CONTEXT = MergeContext("layer.0.k", "weight", seed=3, initializer_range=0.02)
NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64"}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
WIDTHS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def stored(tensor: torch.Tensor) -> StoredTensor:
    numbers: NDArray[np.generic] = (
        tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()
    )
    return StoredTensor(numbers, NAMES[tensor.dtype])


def pool(method: str, heads: torch.Tensor, groups: Groups, context: MergeContext = CONTEXT) -> torch.Tensor:
    """Pool as streaming does: from what is stored to what is stored."""
    function = METHODS[method].pool
    assert function is not None
    merged = store(function(StoredHeads(stored(heads)), groups, context), NAMES[heads.dtype]).numbers
    return torch.from_numpy(merged).view(heads.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copies", [2, 3, 5, 8])
def test_mean_of_duplicated_heads_is_bit_for_bit(dtype: torch.dtype, copies: int) -> None:
    heads = torch.randn(2, 4, 6).to(dtype)
    merged = pool("mean", heads.repeat_interleave(copies, 0), adjacent_groups(2 * copies, 2))
    assert torch.equal(merged, heads)


@pytest.mark.parametrize("size", [1.0, 1e-5, 3e-39])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 3, 8])
def test_streaming_gives_the_bits_that_torch_gives(dtype: torch.dtype, n: int, size: float) -> None:
    """Numbers of every size, subnormal ones and ties among them."""
    spread = torch.logspace(-4, 4, 997) if size == 1 else torch.ones(997)
    heads = (torch.randn(2 * n, 16, 997) * spread * size).to(dtype)
    expected = heads.double().unflatten(0, (2, n)).mean(1).to(dtype)
    merged = pool("mean", heads, adjacent_groups(2 * n, 2))
    assert torch.equal(merged.view(WIDTHS[dtype]), expected.view(WIDTHS[dtype]))
    kept = pool("first", heads, adjacent_groups(2 * n, 2))
    assert torch.equal(kept.view(WIDTHS[dtype]), heads[[0, n]].view(WIDTHS[dtype]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_stored_number_is_widened_and_rounded_back(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    finite = every[every.isfinite()].reshape(1, 1, -1)
    wide = StoredHeads(stored(finite))[0]
    assert torch.equal(torch.from_numpy(wide), finite[0].float())
    assert torch.equal(pool("first", finite, ((0,),)).view(torch.int16), finite.view(torch.int16))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_what_is_not_finite_is_seen(dtype: torch.dtype, number: float) -> None:
    tensor = torch.randn(7, 9).to(dtype)
    tensor[0, 0] = torch.finfo(dtype).max
    assert stored(tensor).is_finite()
    tensor[5, 3] = number
    assert not stored(tensor).is_finite()


def test_mean_by_hand() -> None:
    heads = torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]], [[-1.0, 0.0]], [[2.0, 0.5]]])
    merged = pool("mean", heads, ((0, 1), (2, 3)))
    assert merged.tolist() == [[[2.0, 4.0]], [[0.5, 0.25]]]


def test_mean_is_rounded_once() -> None:
    # 1 + 2**-8 lies between two bfloat16 numbers; sums kept in bfloat16 lose it on the way.
    heads = torch.tensor([1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0078125, 1.0, 1.0234375]).to(torch.bfloat16)
    merged = pool("mean", heads.reshape(8, 1, 1), (tuple(range(8)),))
    assert merged.item() == heads.double().mean().to(torch.bfloat16).item()


def test_first_keeps_the_first_of_each_group() -> None:
    heads = torch.randn(6, 2, 3)
    assert torch.equal(pool("first", heads, adjacent_groups(6, 2)), heads[[0, 3]])


def test_random_depends_on_seed_and_tensor_only() -> None:
    def draw(seed: int, tensor: str, kind: str = "weight") -> torch.Tensor:
        context = MergeContext(tensor, kind, seed, 0.02)
        return pool("random", torch.zeros(4, 16, 32), adjacent_groups(4, 2), context)

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
