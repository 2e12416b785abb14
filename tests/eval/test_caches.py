"""``python -m eval cache``: the whole command on the tiny checkpoint, what its numbers mean, its refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import patches
from eval.caches.allocations import allocated
from eval.caches.command import app
from eval.caches.contenders import PEERS
from eval.caches.needles import _answer, documents
from eval.caches.perplexity import read_losses
from eval.caches.records import Ask, Report
from eval.caches.request import build_ask, split_specs
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.contexts import pack
from eval.errors import EvalError
from eval.text import read_text
from patches.cache.policies import POLICIES
from tests.patches.tiny import windowed_model

TINY = Path(__file__).parents[2] / "recipes/tiny/checkpoint"
TEXT = TINY.parent / "heldout.txt"
LENGTH, SAMPLES = 192, 3
LOW = "low-rank:rank=6,residual=16"
QUICK = [
    *f"--lengths {LENGTH} --samples {SAMPLES} --runs 2 --threads 1".split(),
    *f"--device cpu --dtype float32 --text {TEXT}".split(),
]


def run(folder: Path, *arguments: str, path: Path = TINY) -> Any:
    return CliRunner().invoke(app, [str(path), *QUICK, "--output", str(folder), *arguments])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, str]:
    folder = tmp_path_factory.mktemp("caches")
    result = run(folder, "--policies", f"{LOW},full,low-rank:rank=16,residual=16")
    assert result.exit_code == 0, result.output
    text = (folder / "results.json").read_text(encoding="utf-8")
    return Report.model_validate_json(text), folder, result.stdout


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load(find_checkpoint("tiny", TINY), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def ask() -> Ask:
    return build_ask(
        str(TINY), LOW, "full", text=TEXT, lengths=[LENGTH], samples=SAMPLES,
        kinds=["needle", "recurring-key"], chunk=16, peers=False, runs=1, device="cpu", dtype="float32",
        threads=1, seed=0,
    )  # fmt: skip


def test_everything_is_compared_with_the_cache_that_keeps_everything(
    report: tuple[Report, Path, str],
) -> None:
    found = report[0]
    names = [each.name for each in found.contenders]
    assert names == ["full", LOW, "low-rank:rank=16,residual=16", *PEERS]
    ours = names[:3]
    keys = [*("perplexity", "needle", "recurring-key", "kv_bytes", "kv_formula"), *("peak_decode", "decode")]
    for key in keys:
        row = found.row(f"{key}@{LENGTH}")
        assert row is not None and set(ours) <= set(row.cells), key
        assert row.cells["full"].delta is None and row.cells["full"].ratio is None
        assert row.cells[LOW].ratio is not None or key in ("needle", "recurring-key")
    assert all(each.peak for each in found.contenders[:3])


def test_bytes_are_those_of_the_formula(
    report: tuple[Report, Path, str],
) -> None:
    held, formula = (report[0].row(f"{key}@{LENGTH}") for key in ("kv_bytes", "kv_formula"))
    peaks = [report[0].row(f"{key}@{LENGTH}") for key in ("peak_decode", "peak_prefill")]
    assert held is not None and formula is not None
    # 4 layers of 8 KV heads with 16 numbers of 4 bytes.
    assert held.cells["full"].value == 4 * 2 * 8 * 16 * 4 * LENGTH
    assert held.cells[LOW].ratio == pytest.approx(held.cells[LOW].value / held.cells["full"].value)
    for name in ("full", LOW):
        assert held.cells[name].value == formula.cells[name].value
        for peak in peaks:
            assert peak is not None and peak.cells[name].value > held.cells[name].value
    assert held.cells[LOW].ratio < 0.6


def test_what_keeps_everything_loses_nothing(report: tuple[Report, Path, str]) -> None:
    same, lossy = "low-rank:rank=16,residual=16", report[0].row(f"perplexity@{LENGTH}")
    assert lossy is not None
    assert abs(lossy.cells[same].delta) < 1e-4 < lossy.cells[LOW].delta
    assert lossy.cells[LOW].n == SAMPLES and lossy.cells[LOW].delta_stderr > 0
    losses = report[0].details["perplexity"][LOW][f"perplexity@{LENGTH}"]
    assert len(losses) == SAMPLES
    answers = report[0].details["retrieval"][LOW][f"needle@{LENGTH}"]
    assert [each["depth"] for each in answers] == [0.0, 0.5, 1.0]


def test_peers_are_measured_or_say_why_not(report: tuple[Report, Path, str]) -> None:
    held = report[0].row(f"kv_bytes@{LENGTH}")
    assert held is not None
    for each in report[0].contenders[3:]:
        assert (each.verdict == "measured") == (each.name in held.cells) == (not each.reason)
        if each.name in held.cells:
            assert 0 < held.cells[each.name].ratio < 2


def test_three_files_and_a_table(report: tuple[Report, Path, str]) -> None:
    found, folder, printed = report
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "table.md").read_text(encoding="utf-8")
    for each in found.contenders:
        measured = each.verdict == "measured"
        assert (f"| {each.name} |" if measured else f"- {each.name}: {each.verdict}: {each.reason}") in page
    assert f"### {LENGTH} tokens" in page and f"| perplexity, {LENGTH // 2} on |" in page
    assert "policy" in printed and printed.strip().endswith(f"report: {folder / 'table.md'}")


def test_losses_through_the_cache_are_those_of_one_pass(tiny: Loaded) -> None:
    ids = pack(read_text(None), tiny.tokenizer, tiny.bos, 100, 2).ids
    with torch.no_grad():
        logits = tiny.model(ids, use_cache=False).logits[:, 40:-1]
    expected = torch.nn.functional.cross_entropy(logits.mT, ids[:, 41:], reduction="none")
    for chunk in (1, 16, 200):
        got = read_losses(tiny, lambda: patches.make_cache(tiny.model), ids, 40, chunk)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_the_question_comes_after_the_document(tiny: Loaded, ask: Ask) -> None:
    asked = documents(ask, tiny, "needle", LENGTH)
    assert [each.ids for each in asked] == [each.ids for each in documents(ask, tiny, "needle", LENGTH)]
    passes: list[int] = []
    with tiny.model.register_forward_pre_hook(
        lambda _, __, given: passes.append(given["input_ids"].shape[1]), with_kwargs=True
    ):
        answers = _answer(tiny, patches.make_cache(tiny.model), asked)
    read, question = passes[:2]
    assert read + question == len(asked[0].ids) and set(passes[2:]) == {1}
    for each in asked:
        assert tiny.tokenizer.decode(each.ids[read:]).strip().endswith(each.question[-40:])
    ids = torch.tensor([each.ids for each in asked])
    plain = tiny.model.generate(ids, max_new_tokens=asked[0].answer_tokens, do_sample=False, pad_token_id=0)
    assert answers == tiny.tokenizer.batch_decode(plain[:, ids.shape[1] :], skip_special_tokens=True)


def test_a_recurring_key_is_mentioned_between_needle_and_question(tiny: Loaded, ask: Ask) -> None:
    for each in documents(ask, tiny, "recurring-key", LENGTH)[:2]:
        text = tiny.tokenizer.decode(each.ids)
        needle = text.index(each.values[0])
        assert text.count("somebody else asks") == 3 and text.count(each.values[0]) == 1
        assert needle < text.index("somebody else asks")


def test_the_allocator_is_asked() -> None:
    kept: list[torch.Tensor] = []

    def work() -> None:
        torch.zeros(3 << 18)
        kept.append(torch.zeros(1 << 18))

    found = allocated(work, torch.device("cpu"))
    assert found.kept == 1 << 20 and 3 << 20 <= found.peak <= 4 << 20
    assert allocated(kept.clear, torch.device("cpu")).kept == -(1 << 20)


def test_settings_of_a_policy_have_commas_too() -> None:
    given = "full,low-rank:rank=4,residual=32,bases=calibration,low-rank"
    specs = ["full", "low-rank:rank=4,bases=calibration,residual=32", "low-rank"]
    assert split_specs(given, "global") == specs
    with pytest.raises(EvalError, match="no policy '4' for global layers; choose full"):
        split_specs("low-rank:rank=4,4", "global")


def test_window_layers_have_policies_of_their_own(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    windowed_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arguments = [
        "--policies",
        "low-rank:residual=16",
        "--kinds",
        "needle",
        "--no-peers",
        "--window-policies",
        "full",
    ]
    result = run(tmp_path / "out", *arguments, path=tmp_path / "model")
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "out/results.json").read_text(encoding="utf-8"))
    held, formula = (report.row(f"{key}@{LENGTH}") for key in ("kv_bytes", "kv_formula"))
    assert held is not None and formula is not None
    for name in ("full", "low-rank:residual=16"):
        assert held.cells[name].value == formula.cells[name].value


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--policies", "int3"], ["no policy 'int3' for global layers", "choose full"]),
        (["--policies", "low-rank:bits=3"], ["low-rank has no bits; it has rank"]),
        (["--policies", "low-rank:rank=17"], ["low-rank:rank=17", "head_dim of 16"]),
        (["--policies", "low-rank:bases=calibration"], ["has no kv_bases.safetensors", "make it with"]),
        (["--window-policies", "low-rank"], ["no policy 'low-rank' for window layers"]),
        (["--kinds", "needles"], ["unknown kind of retrieval 'needles'", "did you mean 'needle'"]),
        (["--lengths", "12"], ["--lengths '12'", "from 16"]),
        (["--lengths", "4096"], ["2048", "max_position_embeddings"]),
        (["--lengths", "2045"], ["--lengths + 2 timed steps + 2 of 2049 tokens is too long"]),
        (["--device", "cuda:77"], ["device 'cuda:77' is not available"]),
        (["--dtype", "int3"], ["dtype 'int3'", "float32"]),
        (["--text", "absent.txt"], ["absent.txt"]),
    ],
)
def test_refusals_are_one_line(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "out", *arguments)
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ") and not (tmp_path / "out/results.json").exists()
    for part in parts:
        assert part in line


def test_the_dtype_is_that_of_the_checkpoint() -> None:
    ask = build_ask(
        str(TINY), None, "full", text=None, lengths=[64], samples=2, kinds=["needle"], chunk=16, peers=True,
        runs=1, device="cpu", dtype="auto", threads=1, seed=0,
    )  # fmt: skip
    assert ask.dtype == torch.bfloat16
    assert [policy for policy, _ in ask.policies] == [
        name for name, policy in POLICIES.items() if "global" in policy.kinds
    ]
