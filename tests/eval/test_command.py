"""The command line: one clear line and exit code 2, or a table and a report."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from transformers import MambaConfig
from typer.testing import CliRunner

from eval.__main__ import app
from eval.retrieval import KINDS
from eval.suite import suite_names


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["source"], ["NAME=PATH", "'source'"]),
        (["=x"], ["NAME=PATH"]),
        (["a/b=x"], ["letters, digits"]),
        (["a=x", "a=y"], ["'a'", "2 times"]),
        (["a=absent"], ["'absent' is not a folder"]),
        (["a={dense}", "--suite", "quikc"], ["unknown suite 'quikc'", "did you mean 'quick'"]),
        (["a={dense}", "--lengths", "12,x"], ["--lengths '12,x'"]),
        (["a={dense}", "--lengths", "3"], ["--lengths '3'", "numbers from 4"]),
        (["a={dense}", "--tasks", "headroom_nedle"], ["did you mean 'headroom_needle'"]),
        (["a={dense}", "--kinds", "multikey"], ["unknown kind 'multikey'", "did you mean 'multi-key'"]),
        (["a={dense}", "--kinds", "needle,needle"], ["needle.kinds must not repeat"]),
        (["a={dense}", "--tasks", "piqa", "--data-dir", "absent"], ["data folder 'absent' is not a folder"]),
        (
            ["a={dense}", "--tasks", "piqa", "--data-dir", "{empty}"],
            ["has no NAME.jsonl for piqa", "it has: none"],
        ),
        (
            ["a={dense}", "--suite", "{bare}", "--num-fewshot", "2"],
            ["num_fewshot", "no lm-eval tasks", "--tasks"],
        ),
        (["a={dense}", "--backend", "vllm"], ["backend 'vllm' needs the package vllm"]),
        (["a={dense}", "--backend", "llama"], ["tasks.backend", "'llama'", "'hf' or 'vllm'"]),
        (["a={dense}", "--chat-template"], ["chat template", "'a' has none"]),
        (["a={dense}", "--batch-size", "0"], ["--batch-size '0' must be auto or a number"]),
        (["a={dense}", "--text", "absent.txt"], ["text file 'absent.txt'"]),
        (["a={dense}", "--device", "cuda:77"], ["device 'cuda:77' is not available"]),
        (["a={dense}", "--dtype", "int3"], ["dtype 'int3'", "float32"]),
        (["a={dense}", "--lengths", "4096"], ["4096 tokens is too long for 'a'", "512"]),
        (["a={empty}"], ["no config.json"]),
        (["a={broken}"], ["'a' does not load"]),
        (["a={hollow}"], ["hollow/model.safetensors", "truncated safetensors file"]),
        (["a={noise}"], ["noise/model.safetensors", "not a safetensors file"]),
        (["a={mamba}"], ["'a'", "'mamba' config does not describe attention layers"]),
        (["a={mute}"], ["'a': its tokenizer does not load"]),
        (["a={mute}", "--chat-template"], ["'a': its tokenizer does not load"]),
        (["a={dense}", "--gate", "ppl<=1.0.2"], ["--gate 'ppl<=1.0.2'", "METRIC<=NUMBER"]),
        (["a={dense}", "--output", "{file}/out"], ["cannot be written"]),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], parts: list[str], dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    (tmp_path / "bare.yaml").write_text("name: bare\nfootprint: {}\n")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    (tmp_path / "file").write_text("")
    for path in dense.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for name in ("hollow", "noise", "mamba", "mute"):
        shutil.copytree(dense, tmp_path / name)
    (tmp_path / "hollow/model.safetensors").write_bytes(b"")
    (tmp_path / "noise/model.safetensors").write_bytes((8).to_bytes(8, "little") + b"not json")
    MambaConfig(num_hidden_layers=2).save_pretrained(tmp_path / "mamba")
    for path in (tmp_path / "mute").glob("tokenizer*"):
        path.unlink()
    places = {path.name: path for path in tmp_path.iterdir()}
    places |= {"dense": dense, "bare": tmp_path / "bare.yaml"}
    given = [argument.format(**places) for argument in arguments]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert part in lines[0]


def test_it_ends_with_the_report(dense: Path, sliding: Path, tmp_path: Path) -> None:
    suite = tmp_path / "small.yaml"
    suite.write_text("name: small\nperplexity: {length: 64, contexts: 2}\nfootprint: {lengths: [64]}\n")
    output = tmp_path / "out"
    arguments = [f"source={dense}", f"windowed={sliding}", "--suite", str(suite), "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and done.stderr == "", done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == f"report: {output / 'report.html'}"
    assert "source: perplexity: " in lines[0]
    assert any("Perplexity" in line and "±" in line for line in lines)
    for name in ("results.json", "report.md", "report.html"):
        assert (output / name).stat().st_size > 500


def test_help_reads_well() -> None:
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    options = (
        "suite text tasks data-dir num-fewshot chat-template backend kinds lengths limit device dtype output"
    )
    for option in options.split():
        assert f"--{option}" in done.stdout
    words = re.sub(r"[\s│]", "", done.stdout)
    for name in (*KINDS, *suite_names(), "python-mevalspeed", "python-mevalcache", "python-mevalcompare"):
        assert name in words
