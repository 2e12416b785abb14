"""The budget of compressed caches: the arithmetic of their papers, bytes of live caches, advice in order."""

import json
import shlex

import pytest
import torch

import patches
from convert import Request, convert
from convert.budget import __main__ as program
from convert.budget.combination import LOSSY, ROUNDED, Combination, as_it_is, every, serves, shown
from convert.budget.costs import count_costs, decode_bound, total_bytes
from convert.budget.gpu import GPUS, read_gpu
from convert.budget.memo import write_memo
from convert.budget.model import bare_model, read_model
from convert.budget.recommend import WORKLOADS, recommend
from convert.budget.risks import weigh_risks
from convert.budget.wording import convert_command
from convert.caches import POLICIES
from tests.convert.test_budget import TINY

LLAMA_7B = bare_model(32, 32, 32, 128, 6_738_415_616)
H100 = GPUS["h100"]
KIB = 2**10
WINDOW = {"window": 32, "sinks": 4, "global_layers": "every:4"}
SMALL = "block=8,residual=16"
COMBINATIONS = [
    Combination(8, cache="int8"),
    Combination(8, cache="int4"),
    Combination(2, cache=f"int4:{SMALL}"),
    Combination(8, **WINDOW, cache="int8"),
    Combination(2, **WINDOW, cache="int4", window_cache="int8"),
    Combination(4, **WINDOW, cache=f"int4:{SMALL}", window_cache=f"int4:{SMALL}"),
    Combination(8, 32, 0, window_cache=f"int8:{SMALL}"),
    Combination(8, cache="heavy-hitter:budget=80"),
    Combination(4, cache="heavy-hitter:budget=20KiB,recent=8"),
    Combination(4, cache="merge:budget=20KiB,recent=8"),
    Combination(8, cache="low-rank"),
]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
@pytest.mark.parametrize("decoded", [0, 3])
def test_predicted_bytes_are_those_of_a_live_cache(combination, decoded, tmp_path):
    model, folder, tokens = read_model(str(TINY)), tmp_path / "out", 200
    words = shlex.split(combination.options(model))
    options = {
        name.removeprefix("--").replace("-", "_"): int(value) if value.isdigit() else value
        for name, value in zip(words[::2], words[1::2], strict=True)
    }
    convert(Request(str(TINY), folder, **options))
    predicted = count_costs(model, H100, combination, tokens, 1)
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert predicted.weights == pytest.approx(files, rel=0.01)
    loaded, _ = patches.load(folder, dtype="auto")
    with torch.no_grad():
        cache = loaded(torch.ones(1, tokens - decoded, dtype=torch.long)).past_key_values
        for _ in range(decoded):
            cache = loaded(torch.ones(1, 1, dtype=torch.long), past_key_values=cache).past_key_values
    assert predicted.per_request == pytest.approx(cache.nbytes, rel=0.01)


@pytest.mark.parametrize("kv_heads", [8, 2])
def test_fewer_heads_may_mean_a_cache_of_ours(kv_heads, make_checkpoint, tmp_path):
    """A GPT-NeoX with all of its heads is of transformers, whose cache has no room ahead."""
    source, tokens = make_checkpoint("gpt_neox"), 700
    folder = source
    if kv_heads == 2:
        folder = tmp_path / "out"
        convert(Request(str(source), folder, kv_heads=kv_heads))
    with torch.no_grad():
        cache = patches.load(folder)[0](torch.ones(1, tokens, dtype=torch.long)).past_key_values
    held = sum(
        store.untyped_storage().nbytes() for each in cache.layers for store in (each.keys, each.values)
    )
    assert count_costs(read_model(str(source)), H100, Combination(kv_heads), tokens, 1).per_request == held


@pytest.mark.parametrize(("policy", "bits"), [("int8", 9), ("int4", 5)])
def test_bits_per_number_count_scales_and_zero_points(policy, bits):
    """32 numbers share a scale and a zero point of 16 bits each: one bit more for each of them."""
    costs = count_costs(LLAMA_7B, H100, Combination(32, cache=policy), 131072, 1)
    assert costs.per_token == 512 * KIB * bits // 16
    assert costs.per_request == pytest.approx(131072 * costs.per_token, rel=0.005)


def test_a_decode_step_reads_what_is_stored():
    plain, rounded, few = (
        decode_bound(LLAMA_7B, H100, Combination(32, cache=policy), 131072, 1)
        for policy in ("full", "int4", "heavy-hitter")
    )
    weights = LLAMA_7B.weight_bytes / H100.bandwidth
    assert (rounded - weights) / (plain - weights) == pytest.approx(5 / 16, rel=0.01)
    assert few - weights == pytest.approx((plain - weights) / 128, rel=0.02)
    bounded = Combination(32, 4096, 4, window_cache="int8")
    assert decode_bound(LLAMA_7B, H100, bounded, 100, 1) < decode_bound(LLAMA_7B, H100, bounded, 4100, 1)


def test_the_table_shows_every_policy_alone_and_with_heads_and_windows():
    rows = [one.name(LLAMA_7B) for one in shown(LLAMA_7B)]
    assert len(set(rows)) == len(rows)
    assert {*ROUNDED, *LOSSY} == set(POLICIES) - {"full"}
    for name in ("int8", "low-rank", "GQA-8, int4", "window 4096 + 4 sinks, global every:4, int8"):
        assert name in rows
    mixed = Combination(8, 4096, 4, "every:4", "int4", "int8")
    assert mixed.name(LLAMA_7B).endswith("global every:4, int4 in global layers, int8 in windows")
    assert mixed.options(LLAMA_7B).endswith("--global-layers every:4 --cache int4 --window-cache int8")


def chosen(batch, gpu="h100", name="documents", slo=None):
    advice = recommend(LLAMA_7B, read_gpu(gpu, None, None), name, batch, slo)
    return advice.costs[0].combination if advice.costs else None


def test_rounding_goes_before_what_must_be_trained():
    assert chosen(1) == as_it_is(LLAMA_7B)
    assert chosen(1, "rtx-4090") is not None
    assert chosen(3) == Combination(32, cache="int4")
    assert chosen(4) == Combination(8)
    assert chosen(7) == Combination(8, cache="int8")
    assert chosen(8, name="chat", slo=0.009) == Combination(32, cache="int4")


def test_of_equal_risk_what_needs_no_training_goes_first():
    model, whole = bare_model(32, 32, 16, 128, None), Combination(16, cache="int4")
    tight = read_gpu(f"{total_bytes(model, Combination(8), 131072, 8) + 2**20}", None, None)
    assert total_bytes(model, whole, 131072, 8) < total_bytes(model, Combination(8), 131072, 8)
    advice = recommend(model, tight, "documents", 8, None)
    assert advice.costs is not None and advice.costs[0].combination == whole


@pytest.mark.parametrize("gpu", ["rtx-4090", "a100-40", "h100"])
def test_what_loses_tokens_is_only_the_last_resort(gpu):
    card, context = read_gpu(gpu, None, None), WORKLOADS["documents"].contexts[1]
    for batch in (1, 8, 64):
        advice = recommend(LLAMA_7B, card, "documents", batch, None)
        if advice.costs is None or advice.costs[0].combination.cache not in LOSSY:
            continue
        for other in every(LLAMA_7B):
            if all(risk.level < 3 for risk in weigh_risks(LLAMA_7B, other, context)):
                assert total_bytes(LLAMA_7B, other, context, batch) > card.memory


def test_risks_name_the_measure_that_watches_them():
    for policy in (*ROUNDED, *LOSSY):
        [risk] = weigh_risks(LLAMA_7B, Combination(32, cache=policy), 131072)
        assert risk.mechanism == "cache" and "cache" in risk.watch
        assert (risk.level == 3) == (policy in LOSSY)
    assert weigh_risks(LLAMA_7B, Combination(32, cache="heavy-hitter:budget=8192"), 8192) == ()
    window = Combination(8, 4096, 4, "every:4", "int4", "int8")
    assert [risk.mechanism for risk in weigh_risks(LLAMA_7B, window, 131072)] == ["heads", "window", "cache"]


def test_a_model_that_no_class_of_ours_serves_is_offered_heads_alone(make_checkpoint):
    for family, changes in (("gpt2", {}), ("opt", {}), ("mistral", {"sliding_window": 16})):
        model = read_model(str(make_checkpoint(family, **changes)))
        assert not serves(model)
        for one in (*shown(model), *every(model)):
            assert one.mechanisms(model) in ((), ("heads",))


def test_the_ready_command_is_one_that_convert_takes(run, tmp_path):
    model = read_model(str(TINY))
    command = f"python -m convert {TINY} DST --cache int4"
    tight = read_gpu(f"{total_bytes(model, Combination(8, cache='int4'), 131072, 64)}", None, None)
    advice = recommend(model, tight, "documents", 64, None)
    assert convert_command(model, advice) == command
    words = shlex.split(command.replace("DST", str(tmp_path / "out")))[3:]
    assert run(*words, "--dry-run").code == 0


def test_the_memo_says_what_compression_alone_would_bring():
    advice = [recommend(LLAMA_7B, H100, name, 3, None) for name in (*WORKLOADS, "both")]
    costs = [count_costs(LLAMA_7B, H100, one, 131072, 3) for one in shown(LLAMA_7B)]
    memo = write_memo(LLAMA_7B, H100, 3, None, costs, advice, "plot.png")
    lines = {line.split(" | ")[0]: line for line in memo.splitlines() if line.startswith("| `")}
    assert set(lines) == {f"| `{policy}`" for policy in (*ROUNDED, *LOSSY)}
    held = count_costs(LLAMA_7B, H100, Combination(32, cache="int8"), 131072, 3)
    assert f"| {held.per_request / 2**30:.1f} GiB |" in lines["| `int8`"] and "| yes |" in lines["| `int8`"]
    assert f"rejected: {(held.total - H100.memory) / 2**30:.1f} GiB too much" in lines["| `int8`"]
    assert lines["| `int4`"].endswith("| recommended | recommended |")
    assert "| no |" in lines["| `heavy-hitter`"]
    assert "patches.make_cache" in memo and "no compressed cache" not in memo


def test_the_command_tells_caches_to_machines(monkeypatch, capsys):
    words = ["--layers", "4", "--heads", "8", "--kv-heads", "8", "--head-dim", "16", "--json"]
    monkeypatch.setattr("sys.argv", ["convert.budget", *words])
    assert program.main() == 0
    rows = json.loads(capsys.readouterr().out)["combinations"]
    assert {row["combination"]["cache"] for row in rows} == set(POLICIES)
