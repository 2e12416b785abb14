"""Which layers keep full attention: the switch is exact, the choice greedy, and the known layer is found."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, MistralConfig
from typer.testing import CliRunner

from convert import ConvertError, Request, convert
from convert.global_layers import parse_global_layers
from eval.progress import Reporter
from eval.text import read_text
from recipes.__main__ import app
from recipes.checking import check_recipe
from recipes.errors import RecipeError
from recipes.loading import SHIPPED, load_recipe
from recipes.pipeline import run_recipe
from recipes.placement.place import place
from recipes.placement.probes import PROBES, Ask
from recipes.placement.ranking import passes, rank, total
from recipes.placement.switch import WindowSwitch
from recipes.schema import ConvertPart, FileData, PlacementPart

CHECKPOINT, HELDOUT = SHIPPED / "tiny" / "checkpoint", SHIPPED / "tiny" / "heldout.txt"
WINDOW, SINKS, KNOWN = 64, 4, 3
"""recipes/tiny/README.md: with this window, this layer alone keeps the needles."""
TEXT = FileData(kind="file", file=str(HELDOUT))


@pytest.fixture(scope="module")
def switch() -> WindowSwitch:
    return WindowSwitch(CHECKPOINT, ConvertPart(window=WINDOW, sinks=SINKS), "cpu")


@torch.inference_mode()
@pytest.mark.parametrize("layers,spec", [((), "none"), ((1, 3), "1,3")])
def test_the_switch_gives_what_a_converted_checkpoint_gives(switch, tmp_path, layers, spec):
    request = Request(str(CHECKPOINT), tmp_path / "w", window=WINDOW, sinks=SINKS, global_layers=spec)
    convert(request)
    ids, queries = torch.arange(3, 203), torch.tensor([5, 80, 150, 199])
    for folder, choice in ((tmp_path / "w", layers), (CHECKPOINT, range(4))):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        expected = model(ids[None]).logits[0, queries]
        torch.testing.assert_close(switch.logits(ids, queries, choice), expected, rtol=1e-4, atol=1e-4)


def test_probes_count_only_what_a_window_can_hide(switch):
    ask = Ask(switch, read_text(HELDOUT), 256, 3, 0)
    for name, probe in PROBES.items():
        rows, again = list(probe(ask)), list(probe(ask))
        assert len(rows) == 3
        for row, same in zip(rows, again, strict=True):
            assert torch.equal(row.ids, same.ids) and torch.equal(row.queries, same.queries)
            assert row.queries.min() >= switch.reach and row.queries.max() < len(row.ids) - 1
        if name == "copy":
            for row in rows:
                passage = row.ids[-32:]
                starts = [at for at in range(256 - 32) if torch.equal(row.ids[at : at + 32], passage)]
                assert starts and SINKS <= starts[0] < 256 - 32 - WINDOW
        if name == "needle":
            answers = [switch.loaded.tokenizer.decode(row.targets) for row in rows]
            texts = [switch.loaded.tokenizer.decode(row.ids[: -len(row.targets)]) for row in rows]
            for text, answer in zip(texts, answers, strict=True):
                assert answer.strip(" .").isdigit() and answer.strip(" .") in text


def test_greedy_sees_what_windowing_one_layer_cannot():
    """Layers 0 and 1 do the same, so neither is missed alone; together they are most of the loss."""

    def measure(choices):
        counted.append(len(choices))
        return [
            {"needle": (0.0 if {0, 1} & set(choice) else 5.0), "language": 0.5 * (2 not in choice)}
            for choice in choices
        ]

    counted: list[int] = []
    ranking = rank(measure, layers=4, keep=2)
    assert [layer for layer, _ in ranking.alone] == [2, 0, 1, 3]
    assert [each.layer for each in ranking.rounds] == [0, 2] and ranking.chosen == (0, 2)
    assert total(ranking.windowed) == 5.5 and total(ranking.rounds[-1].losses) == 0
    assert ranking.rounds[0].tried == {0: 0.5, 1: 0.5, 2: 5.0, 3: 5.5}
    assert sum(counted) == passes(4, 2)


def test_the_layer_that_is_known_to_keep_the_needles_is_found(tmp_path):
    written = tmp_path / "placement.json"
    command = ["layers", str(CHECKPOINT), "--window", "64", "--keep", "1", "--text", str(HELDOUT)]
    command += ["--length", "192", "--rows", "2", "--output", str(written)]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert f"--global-layers {KNOWN}\n" in run.output
    entry = json.loads(written.read_text())
    assert entry["global_layers"] == [KNOWN] and entry["ranking"]["alone"][0][0] == KNOWN
    tried = entry["ranking"]["rounds"][0]["tried"]
    assert min(tried, key=tried.get) == str(KNOWN) and len(tried) == 4
    assert entry["source_loss"]["needle"] < 0.5 < entry["ranking"]["windowed"]["needle"]


def recipe_file(folder: Path, **changes) -> Path:
    data = {
        "name": "auto",
        "source": str(CHECKPOINT),
        "convert": {"kv_heads": 4, "window": WINDOW, "sinks": SINKS, "global_layers": "auto:1"},
        "ablations": {"by-position": {"window": WINDOW, "sinks": SINKS, "global_layers": "every:2"}},
        "placement": {
            "data": {"kind": "file", "file": str(HELDOUT)},
            "length": 160,
            "rows": 2,
            "probes": ["needle"],
        },
        "eval": {"text": str(HELDOUT), "footprint": {"lengths": [64]}},
    }
    file = folder / "auto.yaml"
    file.write_text(yaml.safe_dump(data | changes))
    return file


def test_a_recipe_chooses_converts_reports_and_resumes(tmp_path):
    recipe = load_recipe(recipe_file(tmp_path))
    assert any("which 1 layers stay global is measured" in line for line in check_recipe(recipe))
    console = Console(file=(tmp_path / "log").open("w"), width=1000)
    run_recipe(recipe, tmp_path / "run", False, console, "command")
    config = json.loads((tmp_path / "run" / "converted" / "config.json").read_text())
    assert config["attention_window"]["global_layers"] == [KNOWN]
    assert json.loads((tmp_path / "run" / "placement" / "converted.json").read_text())["global_layers"] == [3]
    for name in ("report.md", "report.html", "results.json"):
        assert "full attention stays in 3 of 4 layers" in (tmp_path / "run" / name).read_text(), name
    stamp = (tmp_path / "run" / "placement" / "converted.json").stat().st_mtime_ns
    results = run_recipe(recipe, tmp_path / "run", True, console, "command")
    console.file.flush()
    assert "place-converted: unchanged, skipped" in (tmp_path / "log").read_text()
    assert (tmp_path / "run" / "placement" / "converted.json").stat().st_mtime_ns == stamp
    assert len(results.notes) == 1 and results.notes[0].startswith("converted: full attention")


@pytest.mark.parametrize(
    "spec,said",
    [("auto", "must be auto:N"), ("auto:0", "must be auto:N"), ("auto:x", "must be auto:N")],
)
def test_a_wrong_number_of_layers_is_said(tmp_path, spec, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(recipe_file(tmp_path, convert={"window": 64, "global_layers": spec}))


def test_auto_needs_a_window_and_a_text(tmp_path):
    nowhere = {"data": {"kind": "file", "file": "nowhere.txt"}}
    with pytest.raises(RecipeError, match=r"placement: text .*nowhere.txt does not exist"):
        check_recipe(load_recipe(recipe_file(tmp_path, placement=nowhere)))
    with pytest.raises(RecipeError, match="auto:1 needs a window"):
        load_recipe(recipe_file(tmp_path, convert={"kv_heads": 2, "global_layers": "auto:1"}))
    with pytest.raises(RecipeError, match=r"give placement\.data"):
        load_recipe(recipe_file(tmp_path, placement={}))
    with pytest.raises(ConvertError, match="python -m recipes layers"):
        parse_global_layers("auto:2", 4)


@pytest.mark.parametrize(
    "keep,how,said",
    [
        (4, {}, r"auto:4 must keep 1 to 3 of the source's 4 layers"),
        (1, {"length": 60}, "hides nothing in it; 70 tokens"),
        (1, {"length": 4096}, "config allows 2048"),
        (1, {"length": 100, "probes": ["copy"]}, "101 or more are needed"),
    ],
)
def test_what_cannot_be_measured_is_said(keep, how, said):
    part = PlacementPart(data=TEXT, rows=2, device="cpu", **how)
    with pytest.raises(ValueError, match=said):
        place(ConvertPart(window=WINDOW, sinks=SINKS), keep, part, CHECKPOINT, Reporter(None))


def test_a_source_that_slides_is_refused(tmp_path):
    MistralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=99,
        sliding_window=128,
        architectures=["MistralForCausalLM"],
    ).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="layer 0 of the source slides over 128 tokens"):
        WindowSwitch(tmp_path, ConvertPart(window=64), "cpu")
