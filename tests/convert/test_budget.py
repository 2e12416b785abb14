"""The budget planner: published arithmetic, bytes of real checkpoints, and advice that can be followed."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import patches
from convert import Request, convert
from convert.budget import __main__ as program
from convert.budget.combination import Combination, as_it_is, every
from convert.budget.costs import count_costs, visible_pairs
from convert.budget.gpu import GPUS, Gpu, read_gpu
from convert.budget.model import bare_model, read_model
from convert.budget.recommend import recommend, weigh_risks
from convert.errors import ConvertError

TINY = Path(__file__).parents[2] / "recipes" / "tiny" / "checkpoint"
LLAMA_7B = bare_model(32, 32, 32, 128, 6_738_415_616)
LLAMA_70B = bare_model(80, 64, 8, 128, 68_976_648_192)
H100 = GPUS["h100"]
KIB, GIB = 2**10, 2**30


def costs(model, combination=None, context=4096, gpu=H100, batch=1):
    return count_costs(model, gpu, combination or as_it_is(model), context, batch)


def test_published_figures_of_llama_2_7b():
    assert costs(LLAMA_7B).per_token == 512 * KIB
    assert costs(LLAMA_7B).per_request == 2 * GIB
    assert costs(LLAMA_7B, context=131072).per_request == 64 * GIB
    assert costs(LLAMA_7B, Combination(8)).per_request == 2 * GIB // 4
    assert costs(LLAMA_7B, Combination(1)).per_request == 2 * GIB // 32


def test_published_figures_of_llama_2_70b():
    assert costs(LLAMA_70B).per_token == 320 * KIB
    assert costs(bare_model(80, 64, 64, 128, None)).per_token == 2560 * KIB


def test_published_figures_of_mistral_7b():
    mistral = bare_model(32, 32, 8, 128, 7_241_732_096)
    windowed = Combination(8, 4096)
    assert costs(mistral, windowed, 4096).per_request == GIB // 2
    assert costs(mistral, windowed, 2**20).per_request == GIB // 2
    assert windowed.reach(mistral) == 131072
    assert Combination(8, 4096, 4, "every:4").reach(mistral) is None


def test_estimated_parameters_are_near_the_real_ones():
    assert bare_model(32, 32, 32, 128, None).parameters == pytest.approx(LLAMA_7B.parameters, rel=0.02)


@pytest.mark.parametrize("slots", [None, 1, 5, 12, 40])
def test_visible_pairs_are_counted(slots):
    query = torch.arange(12)
    distance = query[:, None] - query
    assert visible_pairs(slots, 12) == int(((distance >= 0) & (distance < (slots or 12))).sum())


@pytest.mark.parametrize("combination", [Combination(8), Combination(2), Combination(2, 32, 4, "every:4")])
def test_predicted_bytes_are_those_of_a_real_checkpoint(combination, tmp_path):
    model = read_model(str(TINY))
    folder = TINY
    if combination != as_it_is(model):
        folder = tmp_path / "out"
        options = {"kv_heads": combination.kv_heads}
        if combination.window is not None:
            options |= {"window": 32, "sinks": 4, "global_layers": combination.global_layers}
        convert(Request(str(TINY), folder, **options))
    predicted = costs(model, combination, context=200)
    files = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert predicted.weights == pytest.approx(files, rel=0.01)
    loaded, _ = patches.load(folder, dtype="auto")
    with torch.no_grad():
        cache = loaded(torch.ones(1, 200, dtype=torch.long)).past_key_values
    held = [store for layer in cache.layers for store in (layer.keys, layer.values)]
    assert predicted.per_request == sum(store.untyped_storage().nbytes() for store in held)
    assert predicted.per_token == predicted.per_layer * model.layers


def test_the_longest_context_is_the_last_that_fits():
    for combination in (as_it_is(LLAMA_7B), Combination(8), Combination(8, 4096, 4, "every:4")):
        longest = costs(LLAMA_7B, combination).longest_context
        assert costs(LLAMA_7B, combination, longest).total <= H100.memory
        assert costs(LLAMA_7B, combination, longest + 64).total > H100.memory
    assert costs(LLAMA_7B, Combination(32, 4096, 4)).longest_context is None


def test_the_largest_batch_is_the_last_that_fits():
    batch = costs(LLAMA_7B, context=8192).largest_batch
    assert costs(LLAMA_7B, context=8192, batch=batch).total <= H100.memory
    assert costs(LLAMA_7B, context=8192, batch=batch + 1).total > H100.memory
    assert costs(LLAMA_70B).largest_batch == 0


def test_advice_takes_away_no_more_than_it_must():
    assert recommend(LLAMA_7B, H100, "documents", 1, None).costs[0].combination == as_it_is(LLAMA_7B)
    assert recommend(LLAMA_7B, H100, "documents", 4, None).costs[0].combination == Combination(8)
    small = read_gpu("rtx-4090", None, None)
    for name in ("chat", "documents", "both"):
        for batch in (1, 2, 8):
            advice = recommend(LLAMA_7B, small, name, batch, 0.03)
            if advice.costs is None:
                continue
            chosen = advice.costs[0].combination
            worst = max((risk.level for risk in weigh_risks(LLAMA_7B, chosen, 131072)), default=0)
            for cost in advice.costs:
                assert cost.total <= small.memory
            for other in every(LLAMA_7B):
                levels = [risk.level for risk in weigh_risks(LLAMA_7B, other, 131072)]
                if name != "chat" and max(levels, default=0) < worst:
                    assert costs(LLAMA_7B, other, 131072, small, batch).total > small.memory or name == "both"


def test_what_cannot_be_met_is_said():
    advice = recommend(LLAMA_70B, H100, "both", 1, None)
    assert advice.costs is None
    assert "quantize the weights" in advice.reason


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["convert.budget", *map(str, words)])
    code = program.main()
    printed = capsys.readouterr()
    return code, printed.out, printed.err


BARE = ("--layers", 32, "--heads", 32, "--kv-heads", 32, "--head-dim", 128)


def test_the_command_prints_the_table_and_the_ready_command(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, TINY, "--context", "8k", "--gpu", "80GiB")
    assert code == 0
    assert "as it is" in out and "GQA-4" in out and "bandwidth?" in out
    code, out, _ = run(monkeypatch, capsys, *BARE, "--batch", 8, "--workload", "documents")
    assert code == 0
    assert "python -m convert SRC DST --kv-heads 8 --cache int4" in out


def test_json_holds_everything(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, *BARE, "--json", "--decode-slo", "25ms")
    entry = json.loads(out)
    assert code == 0
    assert entry["combinations"][0]["per_request"] == 64 * GIB
    assert [each["workload"] for each in entry["advice"]] == ["chat", "documents", "both"]


def test_the_memo_stands_by_itself(monkeypatch, capsys, tmp_path):
    memo = tmp_path / "new" / "memo.md"
    code, _, _ = run(monkeypatch, capsys, *BARE, "--gpu", "a100-40", "--batch", 16, "--memo", memo)
    assert code == 0
    text = memo.read_text()
    for said in ("softmax over QK^T", "64 GiB", "MQA", "window 4096", "linear attention", "compression alone",
                 "needle", "head diversity", "uptraining", "memo.png"):  # fmt: skip
        assert said in text
    assert (memo.parent / "memo.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("no/such/folder/here/x",), "not a folder"),
        (("./missing",), "is not a folder"),
        ((TINY, "--layers", 2), "--layers: a model"),
        (("--layers", 2, "--heads", 4), "missing: --kv-heads, --head-dim"),
        (("--layers", 2, "--heads", 4, "--kv-heads", 3, "--head-dim", 8), "kv_heads=3 must divide"),
        ((TINY, "--gpu", "h10"), "did you mean 'h100'"),
        ((TINY, "--gpu", "12parsecs"), "gpu='12parsecs' cannot be read"),
        ((TINY, "--gpu", "80GiB", "--decode-slo", "25ms"), "needs the GPU's bandwidth"),
        ((TINY, "--bandwidth", "fast"), "bandwidth='fast' cannot be read"),
        ((TINY, "--context", "long"), "context='long' is not a count"),
        ((TINY, "--decode-slo", "25"), "decode_slo='25' is not a time"),
        ((TINY, "--workload", "chta"), "did you mean 'chat'"),
        ((TINY, "--batch", 0), "--batch"),
        ((TINY, "--memo", "/proc/x/memo.md"), "cannot be written"),
    ],
)
def test_wrong_requests_are_one_line(words, said, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, *words)
    assert code == 2
    assert err.startswith("error: ") and err.count("\n") == 1
    assert said in err


def test_an_unknown_model_fails_in_one_line(monkeypatch):
    import huggingface_hub

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ConvertError, match=r"could not be fetched: no network$"):
        read_model("org/model")


def test_a_config_of_the_hub_needs_no_weights(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(TINY / "config.json"))
    metadata = SimpleNamespace(parameter_count={"BF16": 1000, "F32": 10})
    monkeypatch.setattr(huggingface_hub, "get_safetensors_metadata", lambda _: metadata)
    model = read_model("org/model")
    assert (model.parameters, model.weight_bytes) == (1010, 2040)
    assert model.kv_heads == 8


def test_a_gpu_by_name_may_be_corrected():
    assert read_gpu("h100", "2TB/s", None) == Gpu("h100", 80 * GIB, 2e12, 989e12)
