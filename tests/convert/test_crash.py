"""Failures while writing: nothing new appears, and an old checkpoint stays what it was."""

import errno
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import ConvertError, Request, convert
from convert.layerwise.store import LayerStore

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
    "copying": "convert.weights.writing.copy_range",
    "merging": "convert.pooling.MergeContext",
    "syncing weights": "os.fsync",
    "config": "convert.pipeline.dump_json",
    "tokenizer": "convert.pipeline.copy_file",
    "card": "convert.pipeline.build_card",
    "verifying": "convert.pipeline.verify",
    "renaming": "convert.partial.put_in_place",
}
BEFORE_ANY_FILE = ("weights", "copying", "merging", "syncing weights")


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_failure_leaves_nothing_that_is_of_no_use(
    moment: str, failure: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, expected = FAILURES[failure]

    def fail(*args: object, **options: object) -> None:
        raise type(error)(*error.args)

    source = make_checkpoint("llama")
    request = Request(str(source), tmp_path / "deep" / "out", kv_heads=2)
    with monkeypatch.context() as patch, pytest.raises(expected) as caught:
        patch.setattr(MOMENTS[moment], fail)
        convert(request)
    if moment in BEFORE_ANY_FILE or failure == "bug":
        assert list(tmp_path.iterdir()) == []
        return
    [partial] = (tmp_path / "deep").iterdir()
    assert f"{partial} is kept: continue with --resume, or delete it" in told(caught.value)
    with pytest.raises(ConvertError, match="holds an unfinished conversion"):
        convert(request)
    convert(replace(request, resume=True))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def told(error: BaseException) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


@pytest.mark.parametrize("moment", MOMENTS)
def test_failure_under_force_keeps_the_old(
    moment: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2))
    before = contents(out)

    def fail(*args: object, **options: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    request = Request(str(source), out, kv_heads=1, force=True)
    with monkeypatch.context() as patch, pytest.raises(ConvertError, match="Input/output error"):
        patch.setattr(MOMENTS[moment], fail)
        convert(request)
    assert contents(out) == before
    kept = 0 if moment in BEFORE_ANY_FILE else 1
    assert len(list(tmp_path.glob("out.partial-*"))) == len(list(tmp_path.iterdir())) - 1 == kept
    convert(replace(request, resume=True))
    assert contents(out) != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("merge", ["mean", "subspace"])
def test_without_sync_nothing_is_forced_to_disk(
    merge: str, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(str(make_checkpoint("llama", shard="30KB")), tmp_path / "one", kv_heads=2, merge=merge)
    convert(request)

    def refuse(*args: object) -> None:
        raise AssertionError("forced to disk")

    monkeypatch.setattr("os.fsync", refuse)
    monkeypatch.setattr("convert.weights.target._open_direct", refuse)
    convert(replace(request, destination=tmp_path / "two", sync=False))
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert b"--no-sync" in two.pop("README.md") and b"--no-sync" not in one.pop("README.md")
    assert one == two


@pytest.mark.parametrize("exchange", [True, False])
def test_old_folder_comes_back_when_the_last_rename_fails(
    exchange: bool, make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    convert(Request(str(source), out, kv_heads=2))
    before, rename = contents(out), Path.rename

    def refuse(*args: object) -> bool:
        if exchange:
            raise OSError(errno.EIO, "Input/output error")
        return False

    def fail_on_new(self: Path, target: Path) -> Path:
        if target == out and not self.name.endswith("-old"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr("convert.durable._exchange", refuse)
    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(ConvertError, match="continue with --resume"):
        convert(Request(str(source), out, kv_heads=1, force=True))
    assert contents(out) == before
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("exchange", [True, False])
def test_force_replaces_and_cleans_up(exchange: bool, make_checkpoint, tmp_path: Path, monkeypatch) -> None:
    if not exchange:
        monkeypatch.setattr("convert.durable._exchange", lambda *names: False)
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


SLOW = """
import signal, sys, time
# A shell that starts a job in the background has it ignore interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
import convert.pipeline as pipeline
from convert.__main__ import main
write = pipeline.write_files

def slow(*args):
    write(*args)
    print("writing", flush=True)
    time.sleep(30)
pipeline.write_files = slow
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
    _, errors = child.communicate(timeout=90)
    left = [path.name for path in tmp_path.iterdir()]
    assert child.returncode == code
    if number == signal.SIGINT:
        [partial] = tmp_path.iterdir()
        assert errors.endswith(f"interrupted; {partial} is kept: continue with --resume, or delete it\n")
    assert len(left) == 1 and left[0].startswith("out.partial-")


@pytest.mark.parametrize("options", [{"merge": "subspace"}, {"merge": "mean", "group": "search"}])
def test_computed_layers_are_not_computed_again(
    options: dict[str, str], make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    request = Request(str(source), out, kv_heads=2, **options)
    convert(request)
    whole = contents(out)
    out.rename(tmp_path / "whole")
    saved, save = [], LayerStore.save

    def interrupted(store: LayerStore, layer: int, *more: Any) -> None:
        if layer == 2 and not saved.count(2):
            saved.append(layer)
            raise KeyboardInterrupt
        saved.append(layer)
        save(store, layer, *more)

    monkeypatch.setattr(LayerStore, "save", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        convert(request)
    assert "continue with --resume" in told(caught.value)
    convert(replace(request, resume=True))
    assert saved == [0, 1, 2, 2]
    assert contents(out) == whole
