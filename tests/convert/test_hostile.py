"""Sources and disks that mean no good: one line, exit 2, nothing written, nothing run."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from convert.weights.copying import copy_range
from convert.weights.target import BLOCK_BYTES, Target
from tests.convert.slowly import start

REPOSITORY = Path(__file__).parents[2]
ARGUMENTS = ("--kv-heads", "2")


def refuse(finished, message: str, where: Path) -> None:
    assert finished.code == 2, finished
    assert (finished.out, finished.err.count("\n")) == ("", 1)
    assert message in finished.err
    assert not list(where.glob("out*"))


def test_code_of_the_source_is_never_run(make_checkpoint, run, edit_config, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    trap = f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n"
    for name in ("modeling_evil.py", "configuration_evil.py", "__init__.py", "transformers.py", "torch.py"):
        (source / name).write_text(trap)
    edit_config(
        source,
        auto_map={
            "AutoConfig": "configuration_evil.EvilConfig",
            "AutoModelForCausalLM": "modeling_evil.EvilModel",
        },
    )
    for number, more in enumerate(([], ["--verify", "full"])):
        assert run(source, tmp_path / f"out{number}", *ARGUMENTS, *more).code == 0
        assert not list((tmp_path / f"out{number}").glob("*.py"))
        assert "auto_map" not in json.loads((tmp_path / f"out{number}" / "config.json").read_text())
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_links_that_lead_out(name: str, make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    (source / name).rename(tmp_path / "private")
    (source / name).symlink_to(tmp_path / "private")
    refuse(run(source, tmp_path / "out", *ARGUMENTS), "outside the checkpoint", tmp_path)


def test_links_in_a_circle(make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama")
    (source / "loop.json").symlink_to(source / "loop.json")
    refuse(run(source, tmp_path / "out", *ARGUMENTS), "a link that leads in a circle", tmp_path)


def test_an_index_whose_file_is_a_link_out(make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama", shard="30KB")
    shard = min(source.glob("model-*.safetensors"))
    shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(tmp_path / "elsewhere.safetensors")
    refuse(run(source, tmp_path / "out", *ARGUMENTS), "outside the checkpoint", tmp_path)


BOMBS = {
    "deep": ('{"model_type": "llama", "x": ' + "[" * 900 + "]" * 900 + "}", "nested more than 64 deep"),
    "deeper": ("[" * 1_000_000, "not valid JSON"),
    "huge number": ('{"model_type": "llama", "x": ' + "9" * 10_000 + "}", "not valid JSON"),
    "half a character": ('{"model_type": "llama", "x": "\\ud800"}', "not Unicode"),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_bombs(name: str, bomb: str, make_checkpoint, run, tmp_path: Path) -> None:
    source = make_checkpoint("llama", shard="30KB")
    text, message = BOMBS[bomb]
    (source / name).write_text(text)
    refuse(run(source, tmp_path / "out", *ARGUMENTS), message, tmp_path)


def as_nobody(place: Path, *words: object) -> tuple[int | None, str]:
    """Run the command line as a user whom permissions bind, which they do not bind root; its errors."""
    child = start(place / "errors", *words, user=65534 if os.geteuid() == 0 else None)
    child.join(60)
    return child.exitcode, (place / "errors").read_text()


@pytest.fixture
def open_place(tmp_path: Path) -> Path:
    """A folder that everybody can reach and nobody but its owner can write."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-", "test_")):
            folder.chmod(0o755)
    return tmp_path


def copy_open(source: Path, place: Path) -> Path:
    source.rename(place / "source")
    for path in (place / "source").iterdir():
        path.chmod(0o644)
    (place / "source").chmod(0o755)
    return place / "source"


def test_destination_that_cannot_be_written(make_checkpoint, open_place: Path) -> None:
    source = copy_open(make_checkpoint("llama"), open_place)
    (open_place / "locked").mkdir(mode=0o555)
    code, errors = as_nobody(open_place, source, open_place / "locked" / "out", *ARGUMENTS)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "is not a writable folder" in errors
    assert list((open_place / "locked").iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "."])
def test_source_that_cannot_be_read(name: str, make_checkpoint, open_place: Path) -> None:
    source = copy_open(make_checkpoint("llama"), open_place)
    (open_place / "free").mkdir()
    (open_place / "free").chmod(0o777)
    (source / name).chmod(0)
    code, errors = as_nobody(open_place, source, open_place / "free" / "out", *ARGUMENTS)
    (source / name).chmod(0o755)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert "Permission denied" in errors and (source / name).name in errors
    # A finished weight file is worth keeping when only a small file beside it could not be read.
    assert name == "tokenizer.json" or list((open_place / "free").iterdir()) == []


def test_files_may_not_grow(make_checkpoint, run, tmp_path: Path) -> None:
    source, limits = make_checkpoint("llama"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        finished = run(source, tmp_path / "out", *ARGUMENTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    refuse(finished, "ulimit -f", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_disk_that_is_full(shard: str, make_checkpoint, run, tmp_path: Path, monkeypatch) -> None:
    """A real full disk, found out about only while writing; what was finished on it can be continued."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    monkeypatch.setattr("convert.plan.check_space", lambda *args: None)
    words = (make_checkpoint("llama"), place / "out", *ARGUMENTS, "--max-shard-size", shard)
    try:
        finished = run(*words)
        assert (finished.code, finished.out, finished.err.count("\n")) == (2, "", 1)
        assert "the disk is full" in finished.err
        assert not (place / "out").exists()
        if shard == "5GB":
            assert list(place.iterdir()) == []
            return
        assert "continue with --resume, or delete it" in finished.err
        subprocess.run(["mount", "-o", "remount,size=2m", str(place)], check=True)
        assert run(*words, "--resume").code == 0
        assert [path.name for path in place.iterdir()] == ["out"]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_within_a_write_says_that_it_is_full(tmp_path: Path, monkeypatch) -> None:
    write, written = os.pwrite, []

    def fill_up(descriptor: int, content: memoryview, at: int) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(at)
        return write(descriptor, content[:BLOCK_BYTES], at)

    (tmp_path / "source").write_bytes(bytes(4 * BLOCK_BYTES))
    target = Target(tmp_path / "target", 4 * BLOCK_BYTES, sync=False)
    # Whether this file system takes direct writes or not.
    target._direct = os.dup(target.descriptor)
    monkeypatch.setattr(os, "pwrite", fill_up)
    with (tmp_path / "source").open("rb") as source, pytest.raises(OSError) as raised:
        copy_range(source.fileno(), target, 0, 0, 4 * BLOCK_BYTES, lambda _: None)
    target.close()
    assert raised.value.errno == errno.ENOSPC and written == [0]


@pytest.mark.parametrize("method", ["mean", "first", "random"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_streaming_needs_no_torch(family: str, method: str, make_checkpoint, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from pathlib import Path; from convert import Request, convert\n"
        f"convert(Request(sys.argv[1], Path(sys.argv[2]), kv_heads=2, merge={method!r}))"
    )
    words = [sys.executable, "-c", code, str(make_checkpoint(family)), str(tmp_path / "out")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_planning_needs_no_torch() -> None:
    """Its import takes as long as copying gigabytes, and --help should not wait for it."""
    code = (
        "import sys, convert.__main__\n"
        "heavy = [name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
