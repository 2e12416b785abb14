"""Searching for the groups of heads that lose least."""

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from convert import Request, convert
from convert.families import FAMILIES
from convert.heads import AttentionHeads, Rotary
from convert.layerwise import search
from convert.layerwise.heads import Setting, merge_group, select
from convert.layerwise.loss import measure_loss
from convert.layerwise.merge import weighed
from convert.layerwise.search import search_groups
from convert.merging import METHODS
from convert.merging.inputs import inputs_from_moment
from convert.merging.method import MergeContext
from tests.convert.free_moves import permute_heads
from tests.convert.sources import Source, duplicate_heads


def cost_of(heads: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(heads, heads, generator=generator)
    return lambda group: float(sum(pairs[i, j] for i, j in itertools.combinations(group, 2)))


def partitions(heads: tuple[int, ...], size: int):
    if not heads:
        yield ()
        return
    for companions in itertools.combinations(heads[1:], size - 1):
        group = (heads[0], *companions)
        for rest in partitions(tuple(head for head in heads if head not in group), size):
            yield (group, *rest)


@pytest.mark.parametrize(("heads", "size"), [(4, 2), (6, 3), (8, 2), (8, 4)])
@pytest.mark.parametrize("seed", [0, 1])
def test_few_heads_are_searched_exactly(heads: int, size: int, seed: int) -> None:
    cost = cost_of(heads, seed)
    best = min(sum(map(cost, groups)) for groups in partitions(tuple(range(heads)), size))
    assert sum(map(cost, search_groups(heads, size, cost, 0))) == pytest.approx(best)


def test_local_search_finds_what_the_exact_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = cost_of(8, 3)
    exact = search_groups(8, 2, cost, 0)
    monkeypatch.setattr(search, "EXACT_HEADS", 0)
    assert sum(map(cost, search_groups(8, 2, cost, 0))) == pytest.approx(sum(map(cost, exact)))


def test_many_heads_find_planted_groups() -> None:
    order = torch.randperm(32, generator=torch.Generator().manual_seed(4)).tolist()
    planted = {head: place // 4 for place, head in enumerate(order)}

    def cost(group: tuple[int, ...]) -> float:
        return float(sum(planted[i] != planted[j] for i, j in itertools.combinations(group, 2)))

    found = search_groups(32, 4, cost, 0)
    assert all(len({planted[head] for head in group}) == 1 for group in found)


def test_search_is_deterministic_and_never_worse_than_neighbours() -> None:
    cost = cost_of(24, 5)
    found = search_groups(24, 3, cost, 7)
    assert found == search_groups(24, 3, cost, 7)
    adjacent = [tuple(range(start, start + 3)) for start in range(0, 24, 3)]
    assert sum(map(cost, found)) < sum(map(cost, adjacent))
    assert sorted(head for group in found for head in group) == list(range(24))


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"random"}))
@pytest.mark.parametrize("rotary", [Rotary(8), Rotary(4), Rotary(0), Rotary(8, interleaved=True)])
@pytest.mark.parametrize("key_norm", [False, True])
def test_heads_weighed_once_lose_what_they_lose_weighed_in_every_group(method, rotary, key_norm) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v, o, inputs, attended = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((8, 8, 24), (4, 8, 24), (4, 8, 24), (8, 24, 8), (24, 60), (8, 8, 20))
    )
    moments = inputs_from_moment(inputs @ inputs.T, attended @ attended.mT)
    heads = AttentionHeads(q=q, k=k, v=v, o=o)
    setting = Setting(METHODS[method], rotary, key_norm, moments, MergeContext("layer 0", "weight", 0, 0.02))
    for group in ((0, 1), (1, 3), (0, 2, 3)):
        losses = [
            measure_loss(select(each, group), merge_group(each, group, by), rotary, by.inputs)
            for each, by in ((heads, setting), weighed(heads, setting))
        ]
        assert losses[0].keys == pytest.approx(losses[1].keys, rel=1e-6)
        assert losses[0].values == pytest.approx(losses[1].values, rel=1e-6)


@pytest.mark.parametrize("method", ["mean", "first", "procrustes", "subspace"])
@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2", "qwen2"])
def test_scattered_copies_are_found_and_merged_without_loss(
    family: str, method: str, make_checkpoint, tmp_path: Path
) -> None:
    source = Source(make_checkpoint(family), FAMILIES[family])
    count = source.shape.kv_heads // 2
    duplicate_heads(source, count, tmp_path / "equal")
    equal = Source(tmp_path / "equal", source.family)
    # Copies that are no neighbours: the first head of every pair, then the second of every pair.
    order = [*range(0, source.shape.kv_heads, 2), *range(1, source.shape.kv_heads, 2)]
    for layer in range(equal.shape.layers):
        equal.tensors |= equal.join(layer, permute_heads(equal.split(layer), order))
    scattered = tmp_path / "scattered"
    save(equal, scattered)
    result = convert(Request(str(scattered), tmp_path / "out", kv_heads=count, merge=method, group="search"))
    assert all(layer["values"] < 1e-9 for layer in result.provenance["layers"])
    assert all(sorted(map(len, layer["groups"])) == [2] * count for layer in result.provenance["layers"])
    if result.tier != "windowed":
        tokens = torch.arange(40).reshape(2, 20)
        with torch.no_grad():
            before, after = (
                AutoModelForCausalLM.from_pretrained(folder).eval()(tokens).logits
                for folder in (scattered, tmp_path / "out")
            )
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def save(source: Source, folder: Path) -> None:
    import json

    from safetensors.torch import save_file

    folder.mkdir()
    save_file(
        {name: tensor.contiguous() for name, tensor in source.tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(source.config))
    assert load_file(folder / "model.safetensors").keys() == source.tensors.keys()
