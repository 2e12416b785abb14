"""Failures while writing: nothing new appears, and an old checkpoint stays what it was."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convert import ConvertError, Request, convert

REPOSITORY = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FAILURES = {
    "disk full": (OSError(errno.ENOSPC, "No space left on device"), ConvertError),
    "interrupt": (KeyboardInterrupt(), KeyboardInterrupt),
    "bug": (RuntimeError("a bug"), RuntimeError),
}
MOMENTS = {
    "weights": "convert.weights.writing.encode_header",
    "merging": "convert.pooling.MergeContext",
    "syncing weights": "os.fsync",
    "config": "convert.pipeline.dump_json",
    "tokenizer": "convert.pipeline.copy_file",
    "card": "convert.pipeline.build_card",
    "renaming": "convert.destination._swap",
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_failure_leaves_no_trace(
    moment: str, failure: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, expected = FAILURES[failure]

    def fail(*args: object, **options: object) -> None:
        raise error

    source = make_checkpoint("llama")
    monkeypatch.setattr(MOMENTS[moment], fail)
    with pytest.raises(expected):
        convert(Request(str(source), tmp_path / "deep" / "out", kv_heads=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_failure_under_force_keeps_the_old(
    moment: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2))
    before = contents(out)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(MOMENTS[moment], fail)
    with pytest.raises(ConvertError, match="Input/output error"):
        convert(Request(str(source), out, kv_heads=1, force=True))
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_old_folder_comes_back_when_the_last_rename_fails(
    make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2))
    before, rename = contents(out), Path.rename

    def fail_on_partial(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_partial)
    with pytest.raises(ConvertError):
        convert(Request(str(source), out, kv_heads=1, force=True))
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_and_cleans_up(make_checkpoint, tmp_path: Path) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2))
    (out / "stale.txt").write_text("of the old result")
    result = convert(Request(str(source), out, kv_heads=1, force=True))
    assert result.provenance["kv_heads"] == 1
    assert not (out / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_destination_that_appears_meanwhile_is_left_alone(
    make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("convert.pipeline.build_card", lambda *args: out.mkdir() or "card")
    with pytest.raises(ConvertError, match="appeared while"):
        convert(Request(str(make_checkpoint("llama")), out, kv_heads=2))
    assert list(out.iterdir()) == []


def test_source_that_shrinks_is_noticed(
    make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint("llama")

    def shrink(*args: object) -> None:
        os.truncate(source / "model.safetensors", 6000)

    monkeypatch.setattr("convert.plan.check_space", shrink)
    with pytest.raises(ConvertError, match="became shorter"):
        convert(Request(str(source), tmp_path / "out", kv_heads=2))
    assert list(tmp_path.iterdir()) == []


SLOW = """
import sys, time
import convert.pipeline as pipeline
from convert.__main__ import main
write = pipeline.write_file
def slow(*args):
    write(*args)
    print("writing", flush=True)
    time.sleep(30)
pipeline.write_file = slow
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals(number: int, code: int, make_checkpoint, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLOW, make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "2"]
    child = subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    time.sleep(0.05)
    child.send_signal(number)
    _, errors = child.communicate(timeout=20)
    left = [path.name for path in tmp_path.iterdir()]
    assert child.returncode == code
    if number == signal.SIGINT:
        assert (errors, left) == ("interrupted; nothing was written\n", [])
    else:
        assert all(name.startswith("out.partial-") for name in left)
