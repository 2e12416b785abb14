"""``python -m patches bases``: a text in, a file beside the weights out."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import patches
from patches.__main__ import main
from patches.cache.bases import FILE

TINY = Path(__file__).parents[2] / "recipes/tiny/checkpoint"
TEXT = "the bear went to the pond and sat down. " * 40


@pytest.fixture
def asked(monkeypatch, capsys, tmp_path):
    """Runs the command on a copy of the tiny checkpoint: exit code, output and errors."""
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")

    def run(*arguments):
        given = [str(argument).format(tmp_path) for argument in arguments]
        monkeypatch.setattr("sys.argv", ["patches", "bases", *given])
        return main(), *capsys.readouterr()

    return run


def test_the_file_that_a_cache_then_reads(asked, tmp_path):
    code, said, _ = asked("{}/model", "--text", "{}/text.txt", "--length", "64", "--contexts", "3")
    assert code == 0 and f"{FILE}: from 3 contexts, 192 tokens" in said
    held = load_file(tmp_path / "model" / FILE)
    assert len(held) == 2 * 4 and held["layers.3.key_bases"].shape == (8, 16, 16)
    square = held["layers.0.value_bases"]
    torch.testing.assert_close(square.mT @ square, torch.eye(16).expand(8, -1, -1), rtol=1e-5, atol=1e-5)
    model, tokenizer = patches.load(tmp_path / "model")
    cache = patches.make_cache(model, "low-rank:rank=6,bases=calibration,residual=16")
    prompt = tokenizer(TEXT[:200], return_tensors="pt")
    model.generate(**prompt, past_key_values=cache, max_new_tokens=4, do_sample=False)
    assert cache.layers[2].parts["key coordinates"].shape[3] == 6


@pytest.mark.parametrize(
    "arguments,said",
    [
        (("{}/absent", "--text", "{}/text.txt"), "is not a checkpoint folder"),
        (("{}/model", "--text", "{}/absent.txt"), "is not readable"),
        (("{}/model", "--text", "{}/text.txt", "--length", "4"), "--length 4 must be above 4"),
        (("{}/model", "--text", "{}/text.txt", "--length", "4096"), "at most the model's 2048 positions"),
        (("{}/model", "--text", "{}/text.txt", "--length", "2048"), "less than one context of 2048"),
        (("{}/model",), "--text"),
    ],
)
def test_refusals_are_one_line(asked, arguments, said):
    code, _, error = asked(*arguments)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1
