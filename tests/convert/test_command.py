"""The command line as a person or a script meets it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from convert import Request
from convert.families import FAMILIES
from convert.merging import METHODS
from convert.pipeline import command_line
from convert.terminal import show_progress

REPOSITORY = Path(__file__).parents[2]


def test_result_is_explained(make_checkpoint, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    finished = run(make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "2")
    assert finished.code == 0
    assert finished.err == ""
    for words in ("native-gqa", "every engine loads it", "KV cache at 128k tokens", "2.0x smaller"):
        assert words in finished.out
    assert f'model = AutoModelForCausalLM.from_pretrained("{tmp_path / "out"}")' in finished.out


def test_json_is_one_object(make_checkpoint, run, tmp_path: Path) -> None:
    finished = run(make_checkpoint("llama"), tmp_path / "out", "--window", "8", "--json")
    told = json.loads(finished.out)
    assert (finished.code, finished.err) == (0, "")
    assert (told["tier"], told["model_type"]) == ("native-window", "ministral")
    assert told["rows"][0] == {"label": "Parameters", "before": 36576, "after": 36576, "unit": "count"}
    assert told["path"] == str(tmp_path / "out")


def test_dry_run_tells_the_same_and_writes_nothing(make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    told = json.loads(run(source, tmp_path / "a" / "out", "--kv-heads", "2", "--json", "--dry-run").out)
    assert list(tmp_path.iterdir()) == []
    done = json.loads(run(source, tmp_path / "a" / "out", "--kv-heads", "2", "--json").out)
    assert told.pop("dry_run") is True
    assert done.pop("dry_run") is False
    assert told == done


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_only_when_it_takes_long(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 3.0, 4.0, 9.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds, 9.0))
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=120)
    with show_progress(console) as report:
        report("model.safetensors", 10, 400, "bytes")
        assert shown.getvalue() == ""
        for done in (100, 200, 400):
            report("model.safetensors", done, 400, "bytes")
    if terminal:
        assert "━" in shown.getvalue()
    else:
        assert shown.getvalue().splitlines() == [
            "model.safetensors: 100 B of 400 B (25%, 6 s left)",
            "model.safetensors: 400 B of 400 B (100%, 0 s left)",
        ]


def test_help_names_every_family_and_method(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    finished = run("--help")
    assert finished.code == 0
    assert all(name in finished.out for name in (*FAMILIES, *METHODS))


def test_module_runs_in_a_process_of_its_own(make_checkpoint, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "convert", make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "3"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_provenance_and_card(make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    run(source, tmp_path / "out", "--kv-heads", "2", "--merge", "random", "--seed", "9")
    conversion = json.loads((tmp_path / "out" / "config.json").read_text())["conversion"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert conversion.pop("source_layout_digest").startswith("sha256:")
    assert conversion.pop("version") not in ("", "unknown")
    assert conversion == {
        "tool": "headroom",
        "source": str(source),
        "source_revision": None,
        "source_model_type": "llama",
        "source_kv_heads": 4,
        "kv_heads": 2,
        "merge": "random",
        "grouping": "adjacent",
        "seed": 9,
    }
    assert card.startswith(f'---\nbase_model: "{source}"\n')
    assert f"python -m convert {source} {tmp_path / 'out'} --kv-heads 2 --merge random --seed 9" in card
    assert "**native-gqa**" in card
    assert "| KV cache per token | 768 B | 384 B | 2.0x smaller |" in card


def test_command_of_a_request() -> None:
    request = Request("org/model", Path("my out"), kv_heads=4, window=8, force=True)
    assert command_line(request) == "python -m convert org/model 'my out' --kv-heads 4 --window 8 --force"


def test_what_goes_along_and_what_does_not(make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    carried = ("vocab.txt", "tokenizer.model", "LICENSE", "additional_chat_templates/tool.jinja")
    dropped = (
        "pytorch_model.bin",
        "modeling.py",
        "README.md",
        ".hidden.json",
        "training_args.pt",
        "notes.md",
    )
    (source / "additional_chat_templates").mkdir()
    for name in (*carried, *dropped):
        (source / name).write_text(f"source's {name}")
    assert run(source, tmp_path / "out", "--kv-heads", "2").code == 0
    for name in carried:
        assert (tmp_path / "out" / name).read_text() == f"source's {name}"
    for name in set(dropped) - {"README.md"}:
        assert not (tmp_path / "out" / name).exists(), name
    assert "source's" not in (tmp_path / "out" / "README.md").read_text()


def test_links_of_a_hub_cache_become_files(make_checkpoint, run, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    make_checkpoint("llama").rename(repository / "blobs")
    for path in (repository / "blobs").iterdir():
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", path.name))
    assert run(snapshot, tmp_path / "out", "--kv-heads", "2").code == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_a_link_to_the_whole_checkpoint_is_followed(make_checkpoint, run, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(make_checkpoint("llama"))
    assert run(tmp_path / "link", tmp_path / "out", "--kv-heads", "2").code == 0


def test_files_are_readable_by_others(make_checkpoint, run, tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        assert run(make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "2").code == 0
    finally:
        os.umask(mask)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o644}


def test_trained_checkpoint_still_writes_stories(real_checkpoint: Path, run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert run(real_checkpoint, tmp_path / "out", "--window", "128").code == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    prompt = tokenizer("once upon a time", return_tensors="pt")
    told = []
    for folder in (real_checkpoint, tmp_path / "out"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        told.append(tokenizer.decode(model.generate(**prompt, max_new_tokens=40, do_sample=False)[0]))
    assert told[0] == told[1]
    assert "there was a" in told[1]
