"""Physical tensors to heads and back: every layout, at head counts that do and do not share heads."""

import pytest
import torch

from convert.families.layouts.concatenated import Concatenated
from convert.families.layouts.interleaved import Interleaved
from convert.families.layouts.layout import Layout
from convert.families.layouts.separate import Separate
from convert.heads import HeadShape

LAYOUTS: dict[str, Layout] = {
    "separate": Separate(),
    "separate with biases": Separate(output="dense", qkv_bias=True, output_bias=("use_bias", True)),
    "norm over all heads": Separate(norms=("q_norm", "k_norm")),
    "norm by head": Separate(norms=("q_norm", "k_norm"), has_norms=("use_qk_norm", False), norm_rows=True),
    "concatenated": Concatenated(),
    "conv1d": Concatenated(name="c_attn", output="c_proj", qkv_bias=True, output_bias=True, conv1d=True),
    "interleaved": Interleaved(output="dense", qkv_bias=True, output_bias=True),
}
CONFIG = {"use_qk_norm": True}

layouts = pytest.mark.parametrize("name", LAYOUTS)
shapes = pytest.mark.parametrize(
    "shape", [HeadShape(6, 6, 4, 20), HeadShape(6, 3, 4, 24), HeadShape(6, 1, 2, 12)], ids=str
)


def numbered(layout: Layout, shape: HeadShape) -> dict[str, torch.Tensor]:
    """One layer of bfloat16 tensors; 256 different values show a misplaced row."""
    tensors = {}
    for suffix, size in layout.tensors(shape, CONFIG).items():
        tensors[suffix] = torch.randint(0, 256, size).to(torch.bfloat16)
    return tensors


@layouts
@shapes
def test_join_is_the_inverse_of_split(name: str, shape: HeadShape) -> None:
    layout = LAYOUTS[name]
    for suffix, tensor in numbered(layout, shape).items():
        parts = layout.split(suffix, tensor, shape)
        assert tuple(parts) == layout.roles(CONFIG)[suffix]
        joined = layout.join(suffix, parts, shape)
        assert joined.dtype == tensor.dtype
        assert torch.equal(joined, tensor), suffix


@layouts
@shapes
def test_every_part_has_the_shape_of_its_role(name: str, shape: HeadShape) -> None:
    h, k, d, e = shape.heads, shape.kv_heads, shape.head_dim, shape.hidden_size
    sizes = {"q": (h, d, e), "k": (k, d, e), "v": (k, d, e), "o": (h, e, d), "o_bias": (e,)}
    sizes |= {"q_bias": (h, d), "k_bias": (k, d), "v_bias": (k, d), "q_norm": (h, d), "k_norm": (k, d)}
    layout = LAYOUTS[name]
    for suffix, tensor in numbered(layout, shape).items():
        for role, part in layout.split(suffix, tensor, shape).items():
            assert tuple(part.shape) == sizes[role], role


def test_the_interleaved_order_by_hand() -> None:
    shape = HeadShape(heads=4, kv_heads=2, head_dim=1, hidden_size=1)
    rows = torch.tensor([0, 1, 10, 20, 2, 3, 11, 21])[:, None]
    parts = Interleaved().split("query_key_value.weight", rows, shape)
    assert parts["q"].flatten().tolist() == [0, 1, 2, 3]
    assert parts["k"].flatten().tolist() == [10, 11]
    assert parts["v"].flatten().tolist() == [20, 21]


def test_the_concatenated_order_by_hand() -> None:
    shape = HeadShape(heads=4, kv_heads=2, head_dim=1, hidden_size=1)
    columns = torch.tensor([[0, 1, 2, 3, 10, 11, 20, 21]])
    parts = Concatenated(conv1d=True).split("qkv_proj.weight", columns, shape)
    assert parts["q"].flatten().tolist() == [0, 1, 2, 3]
    assert parts["k"].flatten().tolist() == [10, 11]
    assert parts["v"].flatten().tolist() == [20, 21]


@layouts
@shapes
def test_arrays_are_split_and_joined_as_tensors_are(name: str, shape: HeadShape) -> None:
    layout = LAYOUTS[name]
    for suffix, tensor in numbered(layout, shape).items():
        parts = layout.split(suffix, tensor.float(), shape)
        arrays = layout.split(suffix, tensor.float().numpy(), shape)
        assert {role: part.tolist() for role, part in parts.items()} == {
            role: part.tolist() for role, part in arrays.items()
        }
        assert layout.join(suffix, arrays, shape).tolist() == tensor.tolist()


@layouts
def test_split_and_join_are_differentiable(name: str) -> None:
    layout, shape = LAYOUTS[name], HeadShape(6, 3, 4, 24)
    for suffix, tensor in numbered(layout, shape).items():
        leaf = tensor.double().requires_grad_()
        layout.join(suffix, layout.split(suffix, leaf, shape), shape).sum().backward()
        assert leaf.grad is not None and bool((leaf.grad == 1).all()), suffix


def test_biases_and_norms_follow_the_config() -> None:
    layout = Separate(qkv_bias=("use_bias", True), has_norms=("use_qk_norm", False), norms=("a", "b"))
    silent, loud = layout.roles({}), layout.roles({"use_bias": False, "use_qk_norm": True})
    assert "k_proj.bias" in silent and "b.weight" not in silent
    assert "k_proj.bias" not in loud and "b.weight" in loud
    assert layout.roles().keys() == silent.keys() | loud.keys() | {"o_proj.bias"}
