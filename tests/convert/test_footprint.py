"""Bytes of a KV cache, against numbers that are known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import patches
from convert import Request, convert, footprint
from convert.footprint import CacheShape, build_rows, kv_bytes, kv_growth, kv_per_token
from convert.quantities import format_change, format_value
from convert.request import Row

LLAMA_2_7B = CacheShape(kv_heads=(32,) * 32, head_dim=128, element_bytes=2, slots=(None,) * 32)


def test_llama_2_7b_takes_512_kib_per_token() -> None:
    assert kv_bytes(LLAMA_2_7B, 1) == kv_per_token(LLAMA_2_7B) == 512 * 1024
    assert kv_bytes(LLAMA_2_7B, 4096) == 2 * 1024**3
    assert kv_growth(LLAMA_2_7B) == 512 * 1024


def test_windowed_layers_stop_growing() -> None:
    every_fourth = tuple(None if layer % 4 == 3 else 4100 for layer in range(32))
    small = CacheShape(kv_heads=(8,) * 32, head_dim=128, element_bytes=2, slots=every_fourth)
    per_layer = 2 * 8 * 128 * 2
    assert kv_bytes(small, 4096) == 32 * 4096 * per_layer
    assert kv_bytes(small, 131072) == (8 * 131072 + 24 * 4100) * per_layer
    assert kv_growth(small) == 8 * per_layer
    allocated = replace(small, ours=True)
    assert kv_bytes(allocated, 4096) == (8 * 4096 + 24 * 4100) * per_layer
    assert kv_bytes(allocated, 131072) == kv_bytes(small, 131072)
    assert kv_bytes(allocated, 131073) == (8 * (131072 + 4096) + 24 * 4100) * per_layer


def test_rows_name_every_quantity() -> None:
    rows = build_rows(LLAMA_2_7B, CacheShape((8,) * 32, 128, 2, (None,) * 32), (100, 90), (200, 180))
    assert [row.label for row in rows] == [
        "Parameters",
        "Weight files",
        "KV cache per token",
        "KV cache at 4k tokens",
        "KV cache at 32k tokens",
        "KV cache at 128k tokens",
    ]
    assert rows[2].before == 4 * rows[2].after


def test_quantities_read_well() -> None:
    assert format_value(512 * 1024, "bytes") == "512 KiB"
    assert format_value(5_663_488, "bytes") == "5.40 MiB"
    assert format_value(6_738_415_616, "count") == "6.74B"
    assert format_value(17, "count") == "17"
    assert format_change(Row("", 8, 2, "bytes")) == "4.0x smaller"
    assert format_change(Row("", 100, 95, "bytes")) == "5.0% smaller"
    assert format_change(Row("", 2, 4, "bytes")) == "2.0x larger"
    assert format_change(Row("", 3, 3, "bytes")) == "same"


def test_table_matches_the_files(make_checkpoint, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    result = convert(Request(str(source), tmp_path / "out", kv_heads=2))
    rows = {row.label: row for row in result.rows}
    assert rows["Weight files"].before == (source / "model.safetensors").stat().st_size
    assert rows["Weight files"].after == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert rows["KV cache per token"].before == 2 * 3 * 4 * 8 * 4
    assert rows["Parameters"].before - rows["Parameters"].after == 3 * 2 * 2 * 8 * 32


@pytest.mark.parametrize(
    "family,options", [("llama", {"window": 16, "sinks": 2, "global_layers": "1"}), ("gpt_neox", {})]
)
def test_the_table_has_the_bytes_of_a_live_cache(family, options, make_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(footprint, "LENGTHS", (33, 100))
    result = convert(Request(str(make_checkpoint(family)), tmp_path / "out", kv_heads=2, **options))
    assert result.tier == "windowed"
    model, _ = patches.load(tmp_path / "out")
    held = []
    for tokens in footprint.LENGTHS:
        prompt = torch.ones(1, tokens, dtype=torch.long)
        run = model.generate(prompt, max_new_tokens=1, return_dict_in_generate=True)
        held.append(run.past_key_values.nbytes)
    assert [row.after for row in result.rows if row.label.startswith("KV cache at")] == held
