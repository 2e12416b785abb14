"""Every refusal: exit code 2, one line on standard error, nothing left on disk."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Prepare = Callable[[Path], None]


def nothing(source: Path) -> None:
    pass


def edit(**changes: Any) -> Prepare:
    def prepare(source: Path) -> None:
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | changes))

    return prepare


def retensor(change: Callable[[dict[str, torch.Tensor]], object]) -> Prepare:
    def prepare(source: Path) -> None:
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, source / "model.safetensors", {"format": "pt"})

    return prepare


def reindex(weight_map: dict[str, str] | None) -> Prepare:
    def prepare(source: Path) -> None:
        (source / "model.safetensors").rename(source / "model-00001-of-00001.safetensors")
        names = load_file(source / "model-00001-of-00001.safetensors")
        full = dict.fromkeys(names, "model-00001-of-00001.safetensors")
        content = {} if weight_map is None else {"weight_map": full | weight_map}
        (source / "model.safetensors.index.json").write_text(json.dumps(content))

    return prepare


def reheader(change: Callable[[dict[str, Any]], object]) -> Prepare:
    def prepare(source: Path) -> None:
        raw = (source / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        text = change(header)
        encoded = text.encode() if isinstance(text, str) else json.dumps(header).encode()
        (source / "model.safetensors").write_bytes(
            struct.pack("<Q", len(encoded)) + encoded + raw[8 + length :]
        )

    return prepare


def only_pickle(source: Path) -> None:
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pickle-was-opened'\ntR.")


def truncate(source: Path) -> None:
    os.truncate(source / "model.safetensors", (source / "model.safetensors").stat().st_size - 10)


K0 = "model.layers.0.self_attn.k_proj.weight"
CASES: dict[str, tuple[Prepare, list[str], str]] = {
    "heads do not divide": (nothing, ["--kv-heads", "3"], "must divide the checkpoint's 4"),
    "more heads than there are": (nothing, ["--kv-heads", "8"], "exceeds the checkpoint's 4"),
    "no heads": (nothing, ["--kv-heads", "0"], "at least 1"),
    "heads not a number": (nothing, ["--kv-heads", "two"], "nor auto:MEAN"),
    "nothing asked": (nothing, [], "nothing to convert"),
    "unknown method": (nothing, ["--kv-heads", "2", "--merge", "maen"], "did you mean 'mean'"),
    "unknown option": (nothing, ["--kv-heads", "2", "--colour", "red"], "No such option"),
    "unknown dtype": (nothing, ["--kv-heads", "2", "--dtype", "int4"], "dtype='int4'"),
    "unknown positions": (nothing, ["--window", "8", "--positions", "cash"], "did you mean 'cache'"),
    "positions without window": (nothing, ["--kv-heads", "2", "--positions", "cache"], "needs a window"),
    "positions without sinks": (nothing, ["--window", "8", "--positions", "cache"], "give --sinks"),
    "positions that change with length": (
        edit(rope_scaling={"type": "dynamic", "factor": 2.0}),
        ["--window", "8", "--sinks", "2", "--positions", "cache"],
        "'dynamic' changes its frequencies with the length",
    ),
    "bad shard size": (nothing, ["--kv-heads", "2", "--max-shard-size", "5XB"], "not a size"),
    "window of nothing": (nothing, ["--window", "0"], "window=0 must be at least 1"),
    "sinks fill the window": (nothing, ["--window", "8", "--sinks", "8"], "below the window of 8"),
    "negative sinks": (nothing, ["--window", "8", "--sinks", "-1"], "sinks=-1"),
    "sinks without window": (nothing, ["--kv-heads", "2", "--sinks", "2"], "needs a window"),
    "globals without window": (nothing, ["--kv-heads", "2", "--global-layers", "0"], "needs a window"),
    "layer that is not there": (nothing, ["--window", "8", "--global-layers", "9"], "layer 9 does not exist"),
    "unknown family": (edit(model_type="lama"), ["--kv-heads", "2"], "did you mean 'llama'"),
    "family without a record": (edit(model_type="t5"), ["--kv-heads", "2"], "llama, ministral, mistral"),
    "already windowed": (
        edit(model_type="windowed_llama"),
        ["--kv-heads", "2"],
        "windowed conversion already",
    ),
    "not a causal model": (
        edit(architectures=["LlamaForTokenClassification"]),
        ["--kv-heads", "2"],
        "causal",
    ),
    "quantized": (edit(quantization_config={"quant_method": "gptq"}), ["--kv-heads", "2"], "quantized"),
    "config disagrees": (edit(num_key_value_heads=2), ["--kv-heads", "1"], "config.json says [16, 32]"),
    "config has more layers": (edit(num_hidden_layers=4), ["--kv-heads", "2"], "layers.3.self_attn.q_proj"),
    "config has fewer layers": (edit(num_hidden_layers=2), ["--kv-heads", "2"], "config.json has 2 layers"),
    "config is nonsense": (
        edit(num_attention_heads="many"),
        ["--kv-heads", "2"],
        "num_attention_heads='many'",
    ),
    "spread is nonsense": (edit(initializer_range=None), ["--kv-heads", "2"], "initializer_range=None"),
    "layer types are nonsense": (
        edit(
            model_type="qwen3", attention_bias=False, use_sliding_window=True, layer_types=["full_attention"]
        ),
        ["--kv-heads", "2"],
        "layer_types must name all 3 layers",
    ),
    "config heads disagree": (edit(num_attention_heads=6), ["--kv-heads", "2"], "not a multiple"),
    "no config": (lambda s: (s / "config.json").unlink(), ["--kv-heads", "2"], "has no config.json"),
    "config is not JSON": (
        lambda s: (s / "config.json").write_text("{"),
        ["--kv-heads", "2"],
        "not valid JSON",
    ),
    "config is a list": (lambda s: (s / "config.json").write_text("[]"), ["--kv-heads", "2"], "JSON object"),
    "only a pickle": (only_pickle, ["--kv-heads", "2"], "pickle and is never opened"),
    "no weights": (lambda s: (s / "model.safetensors").unlink(), ["--kv-heads", "2"], "holds neither"),
    "truncated": (truncate, ["--kv-heads", "2"], "is truncated"),
    "empty file": (lambda s: (s / "model.safetensors").write_bytes(b""), ["--kv-heads", "2"], "truncated"),
    "header beyond the file": (
        lambda s: (s / "model.safetensors").write_bytes(struct.pack("<Q", 10**15) + b"{}"),
        ["--kv-heads", "2"],
        "a header of 1000000000000000 bytes",
    ),
    "trailing bytes": (
        lambda s: (s / "model.safetensors").open("ab").write(b"xx"),
        ["--kv-heads", "2"],
        "2 bytes after its last tensor",
    ),
    "header is not JSON": (reheader(lambda h: "{nonsense"), ["--kv-heads", "2"], "not valid JSON"),
    "header nests deeply": (reheader(lambda h: "[" * 100_000), ["--kv-heads", "2"], "not valid JSON"),
    "header repeats a name": (reheader(lambda h: '{"a":1,"a":2}'), ["--kv-heads", "2"], "appears twice"),
    "header entry malformed": (reheader(lambda h: h.update(x=3)), ["--kv-heads", "2"], "'x' is malformed"),
    "negative offset": (
        reheader(lambda h: h[K0].update(data_offsets=[-8, 0])),
        ["--kv-heads", "2"],
        "is malformed",
    ),
    "overlapping tensors": (
        reheader(lambda h: h[K0].update(data_offsets=[0, 4096])),
        ["--kv-heads", "2"],
        "overlap others or leave a hole",
    ),
    "size disagrees": (reheader(lambda h: h[K0].update(shape=[1, 1])), ["--kv-heads", "2"], "needs 4 bytes"),
    "unknown type": (reheader(lambda h: h[K0].update(dtype="F4")), ["--kv-heads", "2"], "unknown type 'F4'"),
    "index is empty": (reindex(None), ["--kv-heads", "2"], "no weight_map"),
    "index names a missing file": (
        reindex({K0: "gone.safetensors"}),
        ["--kv-heads", "2"],
        "which is missing",
    ),
    "index leaves the folder": (reindex({K0: "../x.safetensors"}), ["--kv-heads", "2"], "outside the folder"),
    "index is absolute": (reindex({K0: "/etc/passwd"}), ["--kv-heads", "2"], "outside the folder"),
    "index names a pickle": (
        reindex({K0: "pytorch_model.bin"}),
        ["--kv-heads", "2"],
        "not a safetensors file",
    ),
    "index names a ghost": (
        reindex({"ghost": "model-00001-of-00001.safetensors"}),
        ["--kv-heads", "2"],
        "'ghost' in model-00001",
    ),
    "tensor missing": (
        retensor(lambda t: t.pop(K0)),
        ["--kv-heads", "2"],
        "is missing from the weight files",
    ),
    "weights quantized": (
        retensor(lambda t: t.update({K0: t[K0].to(torch.int8)})),
        ["--kv-heads", "2"],
        "type I8, a quantized",
    ),
    "bias nobody announced": (
        retensor(lambda t: t.update({K0.replace("weight", "bias"): torch.zeros(32)})),
        ["--kv-heads", "2"],
        "no attention bias",
    ),
    "NaN": (
        retensor(lambda t: t[K0].view(-1)[5].fill_(float("nan"))),
        ["--kv-heads", "2"],
        "NaN or infinity",
    ),
    "infinity": (
        retensor(lambda t: t[K0.replace("0", "2", 1)].view(-1)[0].fill_(float("inf"))),
        ["--kv-heads", "2"],
        "layers.2.self_attn.k_proj.weight' holds NaN",
    ),
    "beyond float16": (
        retensor(lambda t: t["lm_head.weight"].view(-1)[0].fill_(1e6)),
        ["--kv-heads", "2", "--dtype", "float16"],
        "beyond float16's 65504",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusal(case: str, make_checkpoint, run, tmp_path: Path) -> None:
    prepare, words, message = CASES[case]
    source = make_checkpoint("llama")
    prepare(source)
    finished = run(source, tmp_path / "new" / "out", *words)
    assert finished.code == 2
    assert finished.out == ""
    assert finished.err.count("\n") == 1
    assert finished.err.startswith("error: ")
    assert message in finished.err
    assert list(tmp_path.iterdir()) == []
    assert not Path("pickle-was-opened").exists()
