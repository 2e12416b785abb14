"""kill -9 at any moment: the destination is absent or whole, and another run finishes what was begun."""

import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from convert import ConvertError, Request, convert
from convert.partial import find_partials
from tests.convert.slowly import start

PATIENCE_S = 120


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(source: Path, out: Path, *more: str) -> list[object]:
    return [out.parent / "errors", source, out, "--kv-heads", "2", "--max-shard-size", "20KB", *more]


def finish(words: list[object]) -> tuple[int | None, str, float]:
    """Let a conversion end; give its exit code, its errors, and the seconds it took."""
    began = time.monotonic()
    child = start(*words)
    child.join(PATIENCE_S)
    return child.exitcode, Path(str(words[0])).read_text(), time.monotonic() - began


def kill(words: list[object], after_s: float) -> None:
    child = start(*words)
    time.sleep(after_s)
    child.kill()
    child.join()


@pytest.mark.parametrize(
    "more",
    [pytest.param([], id="sync"), pytest.param(["--no-sync"], id="no-sync", marks=pytest.mark.thorough)],
)
@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.thorough)])
def test_kill_at_random_moments(kills: int, more: list[str], make_checkpoint, tmp_path: Path) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    words = command(source, out, *more)
    assert finish(words)[0] == 0
    whole = contents(out)
    shutil.rmtree(out)
    code, _, took = finish(words)
    assert code == 0 and contents(out) == whole
    moments = random.Random(kills)
    seen = {"absent": 0, "whole": 0, "continued": 0}
    for _ in range(kills):
        shutil.rmtree(out)
        kill(words, moments.uniform(0, 1.1 * took))
        seen["whole" if out.exists() else "absent"] += 1
        if not out.exists():
            seen["continued"] += any(list(partial.glob("*.safetensors")) for partial in find_partials(out))
            code, errors, _ = finish([*words, "--resume"])
            assert code == 0, errors
        assert contents(out) == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == ["errors", "out"]
    assert seen["absent"], seen
    assert seen["continued"] or kills < 20, seen
    AutoModelForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("kills", [6, pytest.param(40, marks=pytest.mark.thorough)])
def test_kill_while_replacing(kills: int, make_checkpoint, tmp_path: Path) -> None:
    """With ``--force`` the destination is the old checkpoint or the new one, at every moment."""
    source, out = make_checkpoint("llama"), tmp_path / "out"
    assert finish(command(source, out))[0] == 0
    old = contents(out)
    replace = command(source, out, "--merge", "first", "--force")
    code, _, took = finish(replace)
    assert code == 0
    new = contents(out)
    assert old != new
    moments = random.Random(kills)
    for _ in range(kills):
        shutil.rmtree(out)
        out.mkdir()
        for name, content in old.items():
            (out / name).write_bytes(content)
        kill(replace, moments.uniform(0.2, 1.1) * took)
        assert contents(out) in (old, new)
        for stale in find_partials(out):
            shutil.rmtree(stale)


def test_the_second_of_two_is_refused(make_checkpoint, tmp_path: Path) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    words = command(source, out)
    first = start(*words)
    while not any(list(partial.glob("model*")) for partial in find_partials(out)):
        time.sleep(0.001)
    assert first.pid is not None
    os.kill(first.pid, signal.SIGSTOP)
    code, errors, _ = finish([tmp_path / "others", *words[1:], "--resume"])
    os.kill(first.pid, signal.SIGCONT)
    assert (code, errors.count("\n")) == (2, 1)
    assert "another run is writing" in errors
    first.join(PATIENCE_S)
    assert first.exitcode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["errors", "others", "out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--kv-heads", "1"], "kv_heads was '2', now '1'"),
        (["--merge", "first"], "merge was None, now 'first'"),
        (["--max-shard-size", "30KB"], "max_shard_size was '20KB', now '30KB'"),
        (["--no-sync"], "sync was 'True', now 'False'"),
    ],
)
def test_another_request_is_not_continued(change, message, make_checkpoint, run, tmp_path: Path) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    begin(source, out)
    refused = run(*command(source, out, *change, "--resume")[1:])
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert message in refused.err
    assert len(find_partials(out)) == 1


def test_what_was_not_forced_to_disk_is_not_continued_after_a_restart(
    make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text("before\n")
    monkeypatch.setattr("convert.journal.BOOT_ID", boot)
    request = Request(str(make_checkpoint("llama")), tmp_path / "out", kv_heads=2, sync=False)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("convert.pipeline.build_card", interrupt)
        convert(request)
    boot.write_text("after\n")
    with pytest.raises(ConvertError, match="written with --no-sync and the machine may have been restarted"):
        convert(replace(request, resume=True))
    boot.write_text("before\n")
    convert(replace(request, resume=True))
    assert (tmp_path / "out" / "config.json").exists()


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_another_source_is_not_continued(make_checkpoint, run, tmp_path: Path) -> None:
    source, out = make_checkpoint("llama"), tmp_path / "out"
    begin(source, out)
    os.utime(source / "model.safetensors", (1, 1))
    refused = run(*command(source, out, "--resume")[1:])
    assert "the source's model.safetensors is another than it was" in refused.err
    [partial] = find_partials(out)
    shutil.rmtree(partial)
    assert run(*command(source, out, "--resume")[1:]).code == 0


def begin(source: Path, out: Path) -> None:
    """Leave an unfinished conversion with some finished files."""
    child = start(*command(source, out))
    while not any(list(partial.glob("*.safetensors")) for partial in find_partials(out)):
        assert child.is_alive()
        time.sleep(0.001)
    child.kill()
    child.join()
    assert len(find_partials(out)) == 1
