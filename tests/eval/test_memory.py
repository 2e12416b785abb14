"""Predicted bytes are the bytes that a live cache holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from eval.checkpoint import find_checkpoint, load
from eval.measures import footprint
from eval.memory import cache_shape
from eval.sections import FootprintSection
from patches.cache.policies import POLICIES, KvCache
from patches.families.llama import WindowedLlamaConfig

TIGHT = {
    "int8": "int8:block=8,group=8,residual=8",
    "int4": "int4:block=8,group=8,residual=8",
    "heavy-hitter": "heavy-hitter:budget=40,recent=8",
    "merge": "merge:budget=40,recent=8",
    "low-rank": "low-rank:rank=2,residual=8",
}
"""Settings under which a text of some dozen tokens is compressed."""


@pytest.mark.parametrize("which", ["dense", "sliding"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predicted_is_measured(
    which: str, dtype: torch.dtype, make_checkpoint: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    folder = make_checkpoint(window=32 if which == "sliding" else None, dtype=dtype)
    loaded = load(find_checkpoint(which, folder), torch.device("cpu"), torch.float32)
    lengths = [8, 30, 31, 32, 33, 34, 36, 60, 100]
    outcome = footprint.run(ask(loaded, FootprintSection(lengths=lengths, predict_to=1024)))
    assert outcome.warnings == []
    assert outcome.detail["dtype"] == str(dtype).removeprefix("torch.")
    for point in outcome.detail["points"]:
        assert point["predicted"] == point["measured"], point
    if which == "dense":
        assert outcome.detail["points"][-1]["measured"] == 2 * 3 * 100 * 2 * 8 * dtype.itemsize


@pytest.mark.parametrize(
    "window", [None, {"size": 16, "sinks": 4, "positions": "absolute", "global_layers": [1]}]
)
def test_predicted_is_measured_where_layers_differ_in_heads(
    window: dict[str, Any] | None, make_checkpoint: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    folder = make_checkpoint()
    entry = json.loads((folder / "config.json").read_text()) | {"attention_window": window}
    entry["per_layer_config"] = {"0": {"num_key_value_heads": 1}, "1": {"num_key_value_heads": 4}}
    AutoModelForCausalLM.from_config(WindowedLlamaConfig(**entry)).save_pretrained(folder)
    loaded = load(find_checkpoint("by-layer", folder), torch.device("cpu"), torch.float32)
    outcome = footprint.run(ask(loaded, FootprintSection(lengths=[8, 100], predict_to=1024)))
    assert outcome.warnings == []
    assert loaded.checkpoint.record.config["kv_heads"] == [1, 4, 2]
    # A layer that grows has room for 112 tokens when it holds 100.
    ring = 20 if window else 112
    assert outcome.detail["points"][-1]["measured"] == 2 * 8 * 4 * (ring * 1 + 112 * 4 + ring * 2)
    for point in outcome.detail["points"]:
        assert point["predicted"] == point["measured"], point


def test_a_window_with_sinks_is_sinks_plus_window_slots() -> None:
    config = SimpleNamespace(
        num_attention_heads=8,
        num_key_value_heads=2,
        hidden_size=64,
        num_hidden_layers=4,
        attention_window={"size": 16, "sinks": 4, "positions": "absolute", "global_layers": [3]},
    )
    shape = cache_shape(config)
    assert shape.window == 16
    assert shape.windowed_layers == 3
    assert shape.kv_bytes(1024, 2) == 2 * (3 * 20 + 1024) * 2 * 8 * 2
    assert shape.kv_bytes(5, 2, batch=3) == 3 * 2 * (3 * 20 + 16) * 2 * 8 * 2


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "full"])
def test_predicted_is_measured_where_a_cache_is_compressed(
    name: str, window: int | None, make_checkpoint: Callable[..., Path], ask: Callable[..., Any]
) -> None:
    kept = KvCache.from_specs(TIGHT[name], TIGHT[name] if "window" in POLICIES[name].kinds else "full")
    bounds = {"size": window, "sinks": 4, "positions": "absolute", "global_layers": [1]}
    folder = make_checkpoint(max_position_embeddings=1024)
    entry = json.loads((folder / "config.json").read_text())
    entry |= {"attention_window": bounds if window else None, "kv_cache": kept.to_config()}
    AutoModelForCausalLM.from_config(WindowedLlamaConfig(**entry)).save_pretrained(folder)
    loaded = load(find_checkpoint(name, folder), torch.device("cpu"), torch.float32)
    lengths = [8, 9, 31, 32, 33, 100, 250]
    outcome = footprint.run(ask(loaded, FootprintSection(lengths=lengths, predict_to=4096)))
    assert outcome.warnings == []
    assert loaded.checkpoint.record.config["kv_cache"] == kept.to_config()
    for point in outcome.detail["points"]:
        assert point["predicted"] == point["measured"] == point["after_prefill"], point
    kept_whole = 250 + 2 * (window + 4 if window else 250)
    assert outcome.detail["points"][-1]["measured"] < kept_whole * 2 * 2 * 8 * 4
    assert max(point["length"] for point in outcome.detail["curve"]) == 4096


@pytest.mark.skipif("windowed_llama" not in CONFIG_MAPPING, reason="patches has no windowed_llama yet")
def test_a_bounded_cache_holds_what_was_predicted(
    dense: Path, tmp_path: Path, ask: Callable[..., Any]
) -> None:
    folder = tmp_path / "windowed"
    shutil.copytree(dense, folder)
    config = json.loads((folder / "config.json").read_text())
    window = {"size": 16, "sinks": 2, "positions": "absolute", "global_layers": [1]}
    config |= {"model_type": "windowed_llama", "attention_window": window}
    config["architectures"] = ["WindowedLlamaForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    loaded = load(find_checkpoint("windowed", folder), torch.device("cpu"), torch.float32)
    outcome = footprint.run(ask(loaded, FootprintSection(lengths=[10, 18, 19, 60, 65], predict_to=128)))
    assert outcome.warnings == []
    for point, columns in zip(outcome.detail["points"], (16, 32, 32, 64, 80), strict=True):
        assert point["measured"] == point["predicted"] == 2 * (2 * 18 + columns) * 2 * 8 * 4
