"""``--cache`` and ``--window-cache``: what is written, what loads it, what is refused, what it weighs."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import patches
from convert import ConvertError, Request, convert
from patches.cache.policies import KvCache

TOKENS = torch.randint(3, 64, (2, 60), generator=torch.Generator().manual_seed(1))
TIGHT = "int4:block=8,residual=8,sinks=2"
"""Settings under which sixty tokens are compressed."""
WINDOWED = {"window": 16, "sinks": 2, "global_layers": "1"}
STILL = (
    "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "mixtral", "starcoder2", "smollm3", "olmo2",
    "gpt_neox",
)  # fmt: skip
LOAD_REMOTE = """
import sys, torch
from transformers import AutoModelForCausalLM
# Each brings its own copy of the code, and all are there before the first one runs.
models = {
    folder: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    for folder in sys.argv[1:]
}
for folder, model in models.items():
    cache = model(torch.load("tokens.pt")[:, :-1]).past_key_values
    logits = model(torch.load("tokens.pt")[:, -1:], past_key_values=cache).logits
    torch.save((logits.detach(), cache.nbytes), folder + ".pt")
assert "patches" not in sys.modules
"""


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@torch.no_grad()
def fed(model, cache=None):
    """The last of ``TOKENS`` after the others, and the cache."""
    cache = model(TOKENS[:, :-1], past_key_values=cache, use_cache=True).past_key_values
    return model(TOKENS[:, -1:], past_key_values=cache).logits, cache


@pytest.mark.parametrize("family", STILL)
def test_without_a_window_it_is_the_source_with_such_a_cache(family, make_checkpoint, tmp_path):
    source, out = make_checkpoint(family), tmp_path / "out"
    result = convert(Request(str(source), out, cache=TIGHT))
    config = config_of(out)
    assert (result.tier, config["model_type"]) == ("windowed", f"windowed_{family}")
    assert config["kv_cache"] == KvCache.from_specs(TIGHT).to_config()
    assert config["attention_window"] is None
    assert config["layer_types"] == ["full_attention_compressed"] * 3
    stock = AutoModelForCausalLM.from_pretrained(source).eval()
    expected, _ = fed(stock, patches.make_cache(stock, TIGHT))
    logits, cache = fed(patches.load(out)[0])
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert cache.nbytes < fed(stock, patches.make_cache(stock))[1].nbytes


def test_with_a_window_both_kinds_of_layers_have_their_own(make_checkpoint, tmp_path):
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2, **WINDOWED, cache=TIGHT, window_cache="int8"))
    config = config_of(out)
    assert config["kv_cache"] == KvCache.from_specs(TIGHT, "int8").to_config()
    assert config["attention_window"]["size"] == 16
    assert config["layer_types"] == ["sinks_and_window", "full_attention", "sinks_and_window"]
    model = patches.load(out)[0]
    logits, _ = fed(model)
    expected, _ = fed(model, patches.make_cache(model, TIGHT, "int8"))
    assert torch.equal(logits, expected)
    assert not torch.equal(logits, fed(model, patches.make_cache(model))[0])
    model.save_pretrained(tmp_path / "again")
    assert config_of(tmp_path / "again")["kv_cache"] == config["kv_cache"]


def test_heads_that_differ_by_layer_go_along(make_checkpoint, tmp_path):
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads="auto:2", merge="first", cache=TIGHT))
    model = patches.load(out)[0]
    assert model.config.is_heterogeneous and model.config.kv_cache
    logits, _ = fed(model)
    assert torch.isfinite(logits).all()


def test_a_plain_window_with_a_compressed_cache_is_the_windowed_tier(make_checkpoint, tmp_path):
    source = make_checkpoint("mistral")
    request = Request(str(source), tmp_path / "out", window=16, dry_run=True)
    assert convert(request).tier == "native-window"
    compressed = convert(replace(request, window_cache="int8"))
    assert (compressed.tier, compressed.model_type) == ("windowed", "windowed_mistral")
    assert compressed.reason == "transformers keeps every token as it is"


def test_code_that_ignores_the_model_type_is_refused(make_checkpoint, tmp_path):
    convert(Request(str(make_checkpoint("llama")), tmp_path / "out", cache="int8"))
    with pytest.raises(Exception, match="full_attention_compressed"):
        LlamaForCausalLM.from_pretrained(tmp_path / "out")


@pytest.mark.thorough
def test_it_loads_where_headroom_is_not(make_checkpoint, tmp_path):
    source = make_checkpoint("llama")
    asked = {
        "int4": {"cache": TIGHT},
        "both": {"cache": TIGHT, "window_cache": "int8"} | WINDOWED,
    }
    for name, options in asked.items():
        convert(Request(str(source), tmp_path / name, **options))
    torch.save(TOKENS, tmp_path / "tokens.pt")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", LOAD_REMOTE, *asked], cwd=tmp_path, env=environment, check=True)
    for name in asked:
        logits, cache = fed(patches.load(tmp_path / name)[0])
        remote, nbytes = torch.load(tmp_path / f"{name}.pt")
        torch.testing.assert_close(remote, logits, rtol=1e-5, atol=1e-5)
        assert nbytes == cache.nbytes


@pytest.mark.parametrize(
    ("family", "changes", "options", "said"),
    [
        ("llama", {}, {"cache": "int5"}, r"cache='int5' is not known \(did you mean 'int"),
        ("llama", {}, {"cache": "int4:bits=3"}, "int4 has no bits; it has"),
        ("llama", {}, {"cache": "int4:residual=-1"}, "cache='int4:residual=-1': int4: residual=-1 must be"),
        ("llama", {}, {"window": 8, "window_cache": "low-rank"}, "window_cache='low-rank' is not known"),
        ("llama", {}, {"cache": "full"}, "nothing to convert"),
        ("llama", {}, {"window": 8, "cache": "int4"}, "every layer has the window"),
        ("llama", {}, {"window_cache": "int8"}, r"window_cache=int8 needs a window"),
        ("llama", {}, {"window": 8, "global_layers": "all", "window_cache": "int8"}, "all are global"),
        ("gpt2", {}, {"cache": "int4"}, "cache=int4: gpt2 cannot keep its tokens so.*those of.* llama"),
        ("opt", {}, {"kv_heads": 2, "cache": "int4"}, "opt cannot keep its tokens so"),
        ("mistral", {"sliding_window": 8}, {"cache": "int8"}, "cache=int8: .* sliding window of its own"),
        ("gemma2", {}, {"cache": "int8"}, "sliding window of its own"),
        ("llama", {}, {"cache": "heavy-hitter:budget=1KiB"}, "budget='1KiB'"),
        ("llama", {}, {"cache": "low-rank:rank=9"}, "rank=9"),
    ],
)
def test_what_cannot_be_compressed_is_refused(family, changes, options, said, make_checkpoint, tmp_path):
    source = make_checkpoint(family, **changes)
    with pytest.raises(ConvertError, match=said):
        convert(Request(str(source), tmp_path / "out", **options))
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_slides_is_compressed_with_a_window_of_ours(make_checkpoint, tmp_path):
    source = make_checkpoint("gemma2")
    convert(
        Request(str(source), tmp_path / "out", window=8, global_layers="1", cache=TIGHT, window_cache="int8")
    )
    model = patches.load(tmp_path / "out")[0]
    logits, cache = fed(model)
    assert torch.isfinite(logits).all()
    assert cache.nbytes < fed(model, patches.make_cache(model))[1].nbytes


def test_a_conversion_of_ours_is_not_compressed_again(make_checkpoint, run, tmp_path):
    convert(Request(str(make_checkpoint("llama")), tmp_path / "first", cache="int8"))
    finished = run(tmp_path / "first", tmp_path / "second", "--cache", "int4")
    assert finished.code == 2
    assert "a windowed conversion already; convert the checkpoint it came from" in finished.err


def test_the_command_tells_the_same_before_and_after(make_checkpoint, run, tmp_path):
    words = (make_checkpoint("llama"), tmp_path / "out", "--cache", TIGHT, "--json")
    told = json.loads(run(*words, "--dry-run").out)
    assert list(tmp_path.iterdir()) == []
    done = json.loads(run(*words).out)
    assert told | {"dry_run": False} == done
    assert done["provenance"]["cache"] == TIGHT
    assert done["provenance"]["window_cache"] == "full"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"--cache {TIGHT}" in card
    assert f"- Cache of layers with full attention: `{TIGHT}`, " in card
    assert "with a window" not in card


def test_the_table_shows_what_is_saved(make_checkpoint, tmp_path):
    source = make_checkpoint("llama", head_dim=64, hidden_size=512)
    result = convert(Request(str(source), tmp_path / "out", cache="heavy-hitter:budget=128", dry_run=True))
    rows = {row.label: row for row in result.rows}
    assert rows["KV cache per token past the budget"].after == 0
    assert rows["KV cache at 4k tokens"].after == rows["KV cache at 128k tokens"].after
    result = convert(Request(str(source), tmp_path / "out", cache="int4", dry_run=True))
    rows = {row.label: row for row in result.rows}
    assert "KV cache per token past the window" not in rows
    per_token = rows["KV cache per token"].after
    assert rows["KV cache at 128k tokens"].after == pytest.approx(131072 * per_token, rel=0.02)
    assert rows["KV cache per token"].before / per_token > 6


def test_what_is_still_missing_is_said(make_checkpoint, run, tmp_path):
    words = (make_checkpoint("llama"), tmp_path / "out", "--dry-run", "--cache")
    finished = run(*words, "low-rank:bases=calibration")
    assert "python -m patches bases DST --text FILE" in finished.out
    assert "patches bases" not in run(*words, "low-rank").out


def test_an_interrupted_conversion_continues_with_the_same_cache_alone(
    make_checkpoint, tmp_path, monkeypatch
):
    request = Request(str(make_checkpoint("llama")), tmp_path / "deep" / "out", cache=TIGHT)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("convert.pipeline.build_card", fail)
        convert(request)
    with pytest.raises(ConvertError, match=r"cache was .* now 'int8'"):
        convert(replace(request, cache="int8", resume=True))
    convert(replace(request, resume=True))
    assert patches.load(request.destination)[0].config.kv_cache["global"]["policy"] == "int4"
