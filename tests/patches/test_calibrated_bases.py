"""``low-rank`` with bases from a text: what a calibration finds, where it is read, what is refused."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

import patches
from patches.cache.bases import FILE
from patches.policy import PolicyError
from tests.patches.test_low_rank import DIM, KV_HEADS, RANK, projection
from tests.patches.tiny import windowed_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A stock Llama of two layers, on disk."""
    config = LlamaConfig(
        vocab_size=97, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=DIM, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("stock")
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    return path


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()


def ids(rows, tokens):
    return torch.randint(3, 97, (rows, tokens), generator=torch.Generator().manual_seed(rows))


def test_a_calibration_finds_the_directions_of_what_the_cache_holds(folder, tmp_path):
    model = load(folder)
    found = patches.fit_bases(model, ids(3, 50), tmp_path, rank=RANK)
    cache = model(ids(3, 50)).past_key_values
    for index, held in enumerate(cache.layers):
        for side, states in (("key", held.keys), ("value", held.values)):
            directions = found[f"layers.{index}.{side}_bases"].double()
            assert directions.shape == (KV_HEADS, DIM, RANK)
            wanted = projection(states[:, :, 4:].transpose(0, 1).flatten(1, 2))
            torch.testing.assert_close(directions @ directions.mT, wanted, rtol=1e-5, atol=1e-5)
    assert load_file(tmp_path / FILE).keys() == found.keys()


def test_calibrated_bases_are_read_from_the_folder_of_the_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model, prompt = load(tmp_path), ids(2, 40)
    spec = f"low-rank:rank={RANK},bases=calibration,residual=8"
    with pytest.raises(
        PolicyError, match=rf"has no {FILE}; make it with: python -m patches bases {tmp_path}"
    ):
        patches.make_cache(model, spec)
    found = patches.fit_bases(model, ids(8, 50), tmp_path)
    cache = patches.make_cache(model, spec)
    model.generate(prompt, past_key_values=cache, max_new_tokens=5, do_sample=False)
    kept = cache.layers[1].parts["value bases"]
    expected = found["layers.1.value_bases"][:, :, :RANK].double().expand(2, -1, -1, -1)
    assert torch.equal(kept, expected)
    wrong = {name: each[:, :, : RANK - 1].contiguous() for name, each in found.items()}
    for changed, said in (
        (wrong, r"is \[2, 12, 4\], and \[2, 12, 5\] is needed"),
        ({}, "has no layers.0.key"),
    ):
        save_file(changed, tmp_path / FILE)
        with pytest.raises(PolicyError, match=said):
            model(prompt, past_key_values=patches.make_cache(model, spec))
    unknown = AutoModelForCausalLM.from_config(model.config)
    unknown.config.name_or_path = ""
    with pytest.raises(PolicyError, match="the model was not loaded from a checkpoint"):
        patches.make_cache(unknown, spec)


def test_a_windowed_checkpoint_that_asks_for_calibrated_bases(tmp_path):
    entry = {"global": {"policy": "low-rank", "rank": 4, "bases": "calibration", "residual": 8}}
    windowed_model("llama", kv_cache=entry).save_pretrained(tmp_path)
    model = load(tmp_path)
    with pytest.raises(PolicyError, match=f"has no {FILE}"):
        model.generate(ids(1, 20), max_new_tokens=2)
    found = patches.fit_bases(model, ids(4, 50), tmp_path)
    assert found.keys() == {"layers.1.key_bases", "layers.1.value_bases"}
    again = load(tmp_path)
    cache = again(ids(1, 40)).past_key_values
    assert cache.layers[1].parts["key bases"].shape == (1, KV_HEADS, DIM, 4)
    assert again.generate(ids(1, 20), max_new_tokens=30, do_sample=False).shape == (1, 50)


def test_what_cannot_be_calibrated_is_refused(folder):
    model = load(folder)
    with pytest.raises(PolicyError, match=r"input_ids of shape \[1, 4\]"):
        patches.fit_bases(model, ids(1, 4))
    with pytest.raises(PolicyError, match="rank=13 must be from 1 to the model's head_dim of 12"):
        patches.fit_bases(model, ids(1, 20), rank=13)
    window = {"size": 8, "sinks": 3, "positions": "absolute", "global_layers": []}
    with pytest.raises(PolicyError, match="every layer of the model has a window"):
        patches.fit_bases(windowed_model("llama", attention_window=window), ids(1, 20))
