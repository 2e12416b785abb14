"""Where a checkpoint may come from and where a result may go."""

import json
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "~/gone-model", "a/b/c", "two words"])
def test_source_that_is_not_there(name: str, run, tmp_path: Path) -> None:
    finished = run(name, tmp_path / "out", "--kv-heads", "2")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert repr(name) in finished.err
    assert list(tmp_path.iterdir()) == []


def test_source_that_is_a_file(run, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    finished = run(tmp_path / "model", tmp_path / "out", "--kv-heads", "2")
    assert finished.code == 2
    assert "is not a folder" in finished.err


def test_hub_failure_is_one_line(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **patterns: object) -> str:
        raise ConnectionError("Cannot reach the hub\nwith a long explanation\nin many lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    finished = run("org/model", tmp_path / "out", "--kv-heads", "2")
    assert (finished.code, finished.err.count("\n")) == (2, 1)
    assert "could not be fetched: Cannot reach the hub" in finished.err


def test_hub_snapshot_is_converted(
    make_checkpoint, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshots" / "0123abcd"
    snapshot.parent.mkdir()
    make_checkpoint("llama").rename(snapshot)
    asked: dict[str, Any] = {}

    def download(name: str, **patterns: Any) -> str:
        asked.update(patterns, name=name)
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert run("org/model", tmp_path / "out", "--kv-heads", "2").code == 0
    conversion = json.loads((tmp_path / "out" / "config.json").read_text())["conversion"]
    assert (conversion["source"], conversion["source_revision"]) == ("org/model", "0123abcd")
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["allow_patterns"][:5])


def test_no_disk_space(make_checkpoint, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    for extra in ([], ["--dry-run"]):
        finished = run(make_checkpoint("llama"), tmp_path / "out", "--kv-heads", "2", *extra)
        assert (finished.code, finished.err.count("\n")) == (2, 1)
        assert "not enough disk space" in finished.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_destination_and_source_are_apart(force: list[str], make_checkpoint, run) -> None:
    source = make_checkpoint("llama")
    before = sorted(path.name for path in source.iterdir())
    for destination, message in (
        (source, "is the source itself"),
        (source / ".." / source.name, "is the source itself"),
        (source / "inside", "inside the source"),
        (source.parent, "is inside the destination"),
    ):
        finished = run(source, destination, "--kv-heads", "2", *force)
        assert finished.code == 2
        assert message in finished.err
    assert sorted(path.name for path in source.iterdir()) == before


def test_destination_that_exists(make_checkpoint, run, tmp_path: Path) -> None:
    source, destination = make_checkpoint("llama"), tmp_path / "out"
    destination.mkdir()
    (destination / "thesis.txt").write_text("years of work")
    assert "use --force" in run(source, destination, "--kv-heads", "2").err
    assert "not a checkpoint" in run(source, destination, "--kv-heads", "2", "--force").err
    assert (destination / "thesis.txt").read_text() == "years of work"
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(destination)
    file.write_text("x")
    for other in (link, file):
        assert "not a folder" in run(source, other, "--kv-heads", "2", "--force").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "out"]
