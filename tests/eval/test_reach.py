"""What attention sees, layer by layer, is found exactly, and compared with what the config says."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from convert import Request, convert
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.measures import reach
from eval.probe import attention_modules, who_sees
from eval.sections import ReachSection
from eval.text import TextSource

SHORT = "the quick brown fox jumps over the lazy dog and on. " * 3
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 64,
    "pad_token_id": 0,
}


@pytest.fixture(scope="module")
def make_windowed(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Loaded]:
    def make(**request: Any) -> Loaded:
        folder = tmp_path_factory.mktemp("converted") / "windowed"
        convert(Request(source=str(dense), destination=folder, **request))
        return load(find_checkpoint("windowed", folder), torch.device("cpu"), torch.float32)

    return make


def test_the_mask_is_found_as_it_is(make_windowed: Callable[..., Loaded], loaded_dense: Loaded) -> None:
    model = make_windowed(window=9, sinks=2, global_layers="1").model
    ids = torch.arange(30)[None] + 3
    i = torch.arange(30)
    for loaded, windows in ((model, (9, None, 9)), (loaded_dense.model, (None, None, None))):
        seen = who_sees(loaded, attention_modules(loaded, 3), ids, range(30))
        for j in range(30):
            for layer, window in enumerate(windows):
                expected = (i >= j) if window is None else (i >= j) & ((i - j < window) | (j < 2))
                assert torch.equal(seen[j][layer], expected), (j, layer)


@pytest.mark.parametrize(
    "request_",
    [
        {"window": 16, "sinks": 4},
        {"window": 16, "sinks": 4, "positions": "cache"},
        {"window": 16, "sinks": 1, "global_layers": "0"},
        {"window": 1, "sinks": 0},
        {"window": 24},
    ],
)
def test_a_converted_checkpoint_sees_what_it_says(
    request_: dict[str, Any], make_windowed: Callable[..., Loaded], ask: Callable[..., Any]
) -> None:
    outcome = reach.run(ask(make_windowed(**request_), ReachSection()))
    assert outcome.warnings == []
    assert [(metric.value, metric.n) for metric in outcome.metrics] == [(100.0, 3)]
    assert all(
        sample["sees_back"] in (request_["window"], outcome.detail["tokens"]) for sample in outcome.samples
    )


def test_dense_and_natively_sliding_layers_too(
    loaded_dense: Loaded, sliding: Path, ask: Callable[..., Any]
) -> None:
    assert reach.run(ask(loaded_dense, ReachSection())).metrics[0].value == 100.0
    loaded = load(find_checkpoint("sliding", sliding), torch.device("cpu"), torch.float32)
    outcome = reach.run(ask(loaded, ReachSection()))
    assert outcome.metrics[0].value == 100.0
    assert [sample["window"] for sample in outcome.samples] == [32, None, 32]


def test_a_text_of_one_context_is_enough(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    tokens = len(loaded_dense.tokenizer(SHORT)["input_ids"])
    assert reach.DENSE < tokens < 2 * reach.DENSE
    asked = dataclasses.replace(ask(loaded_dense, ReachSection()), text=TextSource((SHORT,), "short"))
    assert reach.run(asked).metrics[0].value == 100.0
    with pytest.raises(EvalError, match="less than one context of 64"):
        reach.run(dataclasses.replace(asked, text=TextSource(("one two",), "shorter")))


def test_attention_that_ignores_its_window_is_named(
    make_windowed: Callable[..., Loaded], loaded_dense: Loaded, ask: Callable[..., Any]
) -> None:
    windowed = make_windowed(window=16, sinks=4, global_layers="1")
    outcome = reach.run(ask(dataclasses.replace(windowed, model=loaded_dense.model), ReachSection()))
    assert outcome.metrics[0].value == pytest.approx(100 / 3)
    assert outcome.warnings == [
        "windowed: layers 0, 2: attention sees everything, config.json says 16 tokens and 4 sinks"
    ]


def test_windows_that_are_too_long_are_left_out_aloud(
    make_windowed: Callable[..., Loaded], ask: Callable[..., Any]
) -> None:
    outcome = reach.run(ask(make_windowed(window=100, sinks=4, global_layers="1"), ReachSection(longest=64)))
    assert (outcome.metrics[0].value, outcome.metrics[0].n) == (100.0, 1)
    assert "2 layers have windows too long to be probed with 64 tokens" in outcome.warnings[0]


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "opt", "phi3", "gemma2", "qwen3", "olmo2", "bloom", "falcon"]
)
def test_attention_modules_of_other_families(name: str) -> None:
    own = {"head_dim": 8} if name in ("gemma2", "qwen3") else {"n_layer": 2, "n_head": 4, "n_embd": 32}
    config = CONFIG_MAPPING[name](**SIZES | own)
    model = AutoModelForCausalLM.from_config(config).eval()
    modules = attention_modules(model, 2)
    assert len(modules) == 2
    seen = who_sees(model, modules, torch.arange(12)[None] + 3, [4])
    assert torch.equal(seen[4], (torch.arange(12) >= 4).expand(2, -1))
