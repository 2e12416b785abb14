"""``python -m eval speed``: the whole command at tiny sizes, its refusals, and the files that it leaves."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import MambaConfig
from typer.testing import CliRunner

from eval.speed.command import SHORT, app
from eval.speed.plot import look
from eval.speed.records import Report
from patches.attention.backends import BACKENDS
from tests.benchmarks.gpu import TARGETS

ROOT = Path(__file__).parents[2]
SMALL = [
    "--lengths",
    "40",
    "--window",
    "8",
    "--sinks",
    "3",
    "--runs",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
]
SLOW = "flex,triton"
"""What compiles for seconds, or runs in an interpreter."""
FORWARD_ALONE = [*SMALL, "--phases", "forward", "--skip", SLOW, "--output"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, str]:
    folder = tmp_path_factory.mktemp("speed")
    arguments = ["--shape", "tiny", *SMALL, "--lengths", "5,40", "--skip", SLOW, "--output", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    text = (folder / "speed.json").read_text(encoding="utf-8")
    return Report.model_validate_json(text), folder, result.stdout


def test_every_phase_times_ours_and_what_is_beside_it(report: tuple[Report, Path, str]) -> None:
    rows = report[0].rows
    assert {row.phase for row in rows} == set(SHORT.values())
    for phase in SHORT.values():
        names = {row.contender for row in rows if row.phase == phase}
        assert {f"headroom {name}" for name in BACKENDS if name not in SLOW} <= names
        assert any("sliding" in name or "full mask" in name for name in names)
        for name in ("headroom sdpa", "headroom eager"):
            timed = [row for row in rows if row.phase == phase and row.contender == name]
            assert [row.verdict for row in timed] == ["timed", "timed"]
    assert not [row for row in rows if row.verdict == "wrong"]
    for row in rows:
        assert (row.ms is not None) == (row.verdict == "timed")
        assert bool(row.reason) == (row.verdict != "timed")
    first = next(row for row in rows if row.verdict == "timed")
    assert first.slower == 1.0 and len(first.turns_ms) == 2 and first.error is not None and first.error < 1e-5


def test_three_files_and_a_table(report: tuple[Report, Path, str]) -> None:
    folder, printed = report[1], report[2]
    assert (folder / "speed.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "speed.md").read_text(encoding="utf-8")
    for row in report[0].rows:
        assert row.contender in page
    assert page.count("cannot run: ") == sum(row.verdict == "cannot run" for row in report[0].rows) > 0
    assert "headroom sdpa" in printed and printed.strip().endswith(f"report: {folder / 'speed.md'}")
    raw = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    assert raw["schema_version"] == 1
    assert raw["ceilings"]["copy_bytes_per_s"] > 0 and raw["ceilings"]["matmul_flop_per_s"] > 0
    assert raw["environment"]["torch"] and raw["environment"]["threads"] == 1


def test_no_two_contenders_look_alike_in_a_plot(report: tuple[Report, Path, str]) -> None:
    count = len({row.contender for row in report[0].rows}) + len(SLOW.split(","))
    assert len({tuple(look(index).items()) for index in range(count)}) == count


def test_the_targets_for_a_gpu_name_contenders_that_there_are(report: tuple[Report, Path, str]) -> None:
    for target in TARGETS:
        names = {row.contender for row in report[0].rows if row.phase == target.phase}
        names |= {f"headroom {name}" for name in SLOW.split(",")}
        assert any(name.startswith(target.own) for name in names), target.what
        assert target.against in names | {""}, target.what
    step = next(target for target in TARGETS if target.phase == "decode, model")
    assert "headroom, static cache".startswith(step.own)


def test_without_ours_nothing_is_compared_with_ours(tmp_path: Path) -> None:
    arguments = ["--shape", "tiny", *SMALL, "--phases", "attention", "--skip", "headroom"]
    assert CliRunner().invoke(app, [*arguments, "--output", str(tmp_path)]).exit_code == 0
    report = Report.model_validate_json((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert report.rows and all(row.verdict == "timed" and row.slower is None for row in report.rows)
    assert "\N{MULTIPLICATION SIGN}" not in (tmp_path / "speed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--shape", "lama-2-7b"], ["unknown shape 'lama-2-7b'", "did you mean 'llama-2-7b'"]),
        (["--shape", "tiny", "--kv-heads", "3"], ["3 KV heads do not divide 8", "1, 2, 4, 8"]),
        (["--shape", "tiny", "--layers", "9"], ["--layers 9", "tiny has 4"]),
        (["--lengths", "12,x"], ["--lengths '12,x'"]),
        (["--batch", "0"], ["--batch '0'"]),
        (["--phases", "foward"], ["unknown phase 'foward'", "did you mean 'forward'"]),
        (["--backends", "sdpaa"], ["unknown backend 'sdpaa'", "did you mean 'sdpa'"]),
        (["--device", "cuda:77"], ["device 'cuda:77' is not available"]),
        (["--dtype", "int3"], ["dtype 'int3'", "float32"]),
        (["absent"], ["'absent'", "config.json"]),
        (["{dense}", "--shape", "tiny"], ["leave out PATH"]),
        (["--output", "{file}/out"], ["cannot be written"]),
        (["{mamba}"], ["'mamba'", "num_attention_heads"]),
    ],
)
def test_refusals_are_one_line(arguments: list[str], parts: list[str], dense: Path, tmp_path: Path) -> None:
    MambaConfig(num_hidden_layers=2).save_pretrained(tmp_path / "mamba")
    (tmp_path / "file").write_text("")
    given = [
        argument.format(dense=dense, file=tmp_path / "file", mamba=tmp_path / "mamba")
        for argument in arguments
    ]
    if "--output" not in given:
        given += ["--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    for part in parts:
        assert part in line


def test_a_checkpoint_brings_shape_weights_and_hidden_states(dense: Path, tmp_path: Path) -> None:
    phases = ["--phases", "forward,model", "--skip", SLOW]
    result = CliRunner().invoke(app, [str(dense), *SMALL, *phases, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    report = Report.model_validate_json((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert report.shape["heads"] == 4 and report.shape["head_dim"] == 8
    assert "reading" in report.data
    timed = {row.contender for row in report.rows if row.phase == "decode, model" and row.ms is not None}
    assert {"headroom sdpa", "transformers' sliding window", "transformers' dynamic cache"} <= timed


@pytest.mark.thorough
def test_the_command_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eval", "speed", "--shape", "tiny", *FORWARD_ALONE, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("speed.md")
    assert all(line.startswith("timing: ") for line in done.stderr.strip().splitlines())


@pytest.mark.thorough
def test_compiled_flex_is_a_contender(tmp_path: Path) -> None:
    arguments = [
        "--shape",
        "tiny",
        *SMALL,
        "--lengths",
        "300",
        "--phases",
        "forward",
        "--output",
        str(tmp_path),
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    report = Report.model_validate_json((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (flex,) = (row for row in report.rows if row.contender.startswith("flex"))
    assert flex.verdict == "timed" or flex.reason
