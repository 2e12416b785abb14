"""Reading a text through every family layer by layer, and what refit and reconstruction do with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from convert import convert
from convert.calibration.decoder import Decoder
from convert.calibration.refit import Regression
from convert.calibration.streams import Reading, Streams
from convert.layerwise.calibrated import compute_with_text
from convert.layerwise.job import Calibration
from convert.layerwise.reading import find_spots
from convert.layerwise.store import LayerStore
from tests.convert.calibrating import ROWS, job_of, request_with, rows_as_text
from tests.convert.sources import Source, duplicate_heads
from tests.convert.tiny import CASES

CPU = torch.device("cpu")

cases = pytest.mark.parametrize("case", CASES)


@cases
def test_streams_are_those_of_the_whole_model(source: Source) -> None:
    job = job_of(source, 1)
    decoder = Decoder(source.folder, job.weights, source.family.layers, CPU)
    streams = Streams(decoder, ROWS, 2, find_spots(job), converted=True)
    reading = Reading(source.shape.heads, source.shape.head_dim, biased=False)
    whole = AutoModel.from_pretrained(source.folder, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = whole(ROWS, output_hidden_states=True, use_cache=False).hidden_states
    for index in range(source.shape.layers - 1):
        with decoder.layer(index) as layer:
            before = streams.source.clone()
            moments, wanted = streams.read_source(index, layer, reading, lambda: None)
            own = source.family.join_layer(source.split(index), source.shape.layer(), source.config)
            error = streams.advance(index, layer, own, wanted, lambda: None)
        torch.testing.assert_close(streams.source, hidden[index + 1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(streams.converted, streams.source, rtol=1e-4, atol=1e-4)
        assert error < 1e-8
        assert moments.tokens == ROWS.numel()
        assert moments.inputs.shape == (source.shape.hidden_size,) * 2
        assert not torch.equal(wanted.stream, before)
    assert all(parameter.is_meta for layer in decoder.layers for parameter in layer.parameters())


@cases
def test_duplicated_heads_survive_every_stage(source: Source, tmp_path: Path) -> None:
    if not source.fewer():
        pytest.skip("one KV head already")
    if source.family.fixed(source.config):
        pytest.skip("its heads may not be rotated")
    count = source.fewer()[0]
    duplicate_heads(source, count, tmp_path / "equal")
    equal = Source(tmp_path / "equal", source.family)
    calibration = Calibration("", ROWS.numel(), 2, "cpu", refit=True, steps=0)
    records = compute_with_text(
        job_of(equal, count), calibration, rows_as_text(ROWS), LayerStore(tmp_path / "work"), lambda *_: None
    )
    for record in records:
        assert record["values"] < 1e-6
        assert record["keys"] < 1e-6 or source.family.key_norm(source.config)
        assert record["stream"] < 1e-8


UNSEEN = torch.arange(200).reshape(4, 50) * 11 % 64


def divergence(source: Path, result: Path, tokens: Tensor = UNSEEN) -> float:
    with torch.no_grad():
        before, after = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            .eval()(tokens)
            .logits.log_softmax(-1)
            for folder in (source, result)
        )
    return float((before.exp() * (before - after)).sum(-1).mean())


def last_stream(result: Path) -> float:
    layers = json.loads((result / "config.json").read_text())["conversion"]["layers"]
    return layers[-1]["stream"]


@pytest.mark.parametrize(
    "family",
    ["llama", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("gpt2", "gemma2", "phi3"))],
)
def test_each_stage_repairs_more(family: str, make_checkpoint, text: Path, tmp_path: Path) -> None:
    source = make_checkpoint(family)
    none = convert(
        request_with(source, tmp_path / "a", text, merge="subspace", reconstruct=0, refit=True, kv_heads=2)
    )
    more = convert(request_with(source, tmp_path / "b", text, kv_heads=2, reconstruct=80))
    assert 0 < last_stream(tmp_path / "b") <= last_stream(tmp_path / "a") * 1.001
    assert more.provenance["calibration"]["reconstruct"] == 80
    assert none.provenance["calibration"]["refit"] is True


def test_text_beats_no_text_beats_mean(text: Path, make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    losses = {}
    for name, options in {
        "mean": {"calibrate": None},
        "subspace": {"calibrate": None, "merge": "subspace"},
        "all": {"reconstruct": 60},
    }.items():
        convert(request_with(source, tmp_path / name, text, **options))
        losses[name] = divergence(source, tmp_path / name)
    assert losses["all"] < losses["subspace"] < losses["mean"]


@pytest.mark.thorough
def test_a_trained_model_is_repaired_by_every_stage(tmp_path: Path) -> None:
    tiny = Path(__file__).parents[2] / "recipes" / "tiny"
    stories = (tiny / "heldout.txt").read_text()
    text = tmp_path / "stories.txt"
    text.write_text(stories[: len(stories) // 2])
    tokenizer = AutoTokenizer.from_pretrained(tiny / "checkpoint")
    unseen = tokenizer(stories[-6000:], return_tensors="pt").input_ids[:, :1024].reshape(8, -1)
    calibrated = {"calibrate_tokens": 8192, "calibrate_batch": 2}
    stages = {
        "mean": {"calibrate": None},
        "subspace": calibrated | {"merge": "subspace"},
        "refit": calibrated | {"merge": "subspace", "refit": True},
        "reconstruct": calibrated | {"reconstruct": 25},
    }
    losses = {}
    for name, stage in stages.items():
        convert(request_with(tiny / "checkpoint", tmp_path / name, text, kv_heads=2, **stage))
        losses[name] = divergence(tiny / "checkpoint", tmp_path / name, unseen)
    assert losses["reconstruct"] < losses["refit"] < losses["subspace"] < 0.5 * losses["mean"]


def test_default_with_text_is_subspace_with_everything(make_checkpoint, text: Path, run, tmp_path) -> None:
    source = make_checkpoint("llama", max_position_embeddings=32)
    words = ("--kv-heads", 2, "--calibrate", text, "--calibrate-tokens", 256, "--calibrate-batch", 4)
    finished = run(source, tmp_path / "out", *words)
    assert finished.code == 0, finished.err
    assert "no --merge, so the method is subspace with refit and reconstruction" in finished.out
    conversion = json.loads((tmp_path / "out" / "config.json").read_text())["conversion"]
    assert conversion["merge"] == "subspace"
    assert conversion["calibration"] == {
        "text": str(text),
        "digest": conversion["calibration"]["digest"],
        "tokens": 256,
        "row_tokens": 32,
        "refit": True,
        "reconstruct": 200,
    }
    assert [set(layer) for layer in conversion["layers"]] == [{"keys", "values", "stream"}] * 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Calibrated on 256 tokens" in card
    assert "What merging lost, layer by layer" in card
    assert not (tmp_path / "out" / ".work").exists()


def test_heads_that_give_nothing_stay_as_they_are() -> None:
    start = torch.randn(3, 4)
    regression = Regression.empty(4, 3, CPU)
    regression.add(torch.zeros(8, 4), torch.ones(8, 3))
    assert torch.equal(regression.solve(start), start.double())


def test_result_is_rounded_as_the_source(make_checkpoint, text: Path, tmp_path: Path) -> None:
    source = make_checkpoint("qwen2", dtype=torch.bfloat16)
    convert(request_with(source, tmp_path / "out", text, reconstruct=3))
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
