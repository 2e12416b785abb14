"""A calibration text read by two processes: the covariances of one, and the same weights."""

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from convert import ConvertError, convert
from convert.calibration.share import ALONE, Share
from convert.families import FAMILIES
from convert.layerwise.job import Calibration
from convert.layerwise.reading import open_streams, read_layer
from tests.convert.calibrating import ROWS, job_of, request_with, rows_as_text
from tests.convert.sources import Source

ROOT = Path(__file__).parents[2]
MakeCheckpoint = Callable[..., Path]


def moments(folder: Path, share: Share) -> list[Tensor]:
    """The root of the covariance of what each layer reads, and what its heads give."""
    source = Source(folder, FAMILIES["llama"])
    calibration = Calibration("", ROWS.numel(), 1, "cpu", refit=False, steps=0, share=share)
    job = job_of(source, 2)
    streams = open_streams(job, calibration, rows_as_text(ROWS), converted=False)
    found: list[Tensor] = []
    for index in range(source.shape.layers):
        with streams.decoder.layer(index) as layer:
            inputs, _ = read_layer(job, streams, index, layer, lambda: None)
        assert inputs.root is not None and inputs.attended is not None
        found += [inputs.root @ inputs.root.mT, inputs.attended]
    return found


def read_part(rank: int, store: Path, folder: Path, answers: Any) -> None:
    """One of two processes: its rows through the model, and everything it knows then."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    share = Share(rank, 2)
    own = share.rows(ROWS, 1)
    whole = share.gather(own, 1)
    answers.put((rank, [tensor.numpy() for tensor in (own, whole, *moments(folder, share))]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_the_covariances_of_one(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    folder = make_checkpoint("llama")
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    arguments = (tmp_path / "store", folder, answers)
    children = [context.Process(target=read_part, args=(rank, *arguments)) for rank in range(2)]
    for child in children:
        child.start()
    found = dict(answers.get(timeout=120) for _ in children)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    for rank in range(2):
        own, whole, *sums = map(torch.from_numpy, found[rank])
        assert torch.equal(own, ROWS[rank::2])
        assert torch.equal(whole, ROWS if rank == 0 else own)
        for mine, alone in zip(sums, moments(folder, ALONE), strict=True):
            torch.testing.assert_close(mine, alone, atol=1e-7, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_launched_conversion_writes_what_one_process_does(
    make_checkpoint: MakeCheckpoint, text: Path, tmp_path: Path
) -> None:
    source = make_checkpoint("llama", max_position_embeddings=32)
    # Five batches for two processes: the shares are not equal.
    request = request_with(
        source, tmp_path / "alone", text, calibrate_tokens=640, reconstruct=6, group="search"
    )
    alone = convert(request)
    options = {"kv_heads": 1, "calibrate": text, "calibrate_tokens": 640, "calibrate_batch": 4}
    options |= {"reconstruct": 6, "group": "search"}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = launch(str(source), str(tmp_path / "two"), *words, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    provenance = json.loads(done.stdout)["provenance"]
    assert provenance["calibration"] == alone.provenance["calibration"]
    for mine, theirs in zip(provenance["layers"], alone.provenance["layers"], strict=True):
        assert mine.pop("groups") == theirs.pop("groups")
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-6)
    got, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "alone"))
    before = load_file(source / "model.safetensors")
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], atol=2e-4, rtol=1e-3, msg=name)
    assert any(not torch.equal(got[name], before[name]) for name in got if "o_proj" in name)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_launched_conversion_that_is_refused_ends(
    make_checkpoint: MakeCheckpoint, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    words = ["--kv-heads", "1", "--calibrate", str(text), "--calibrate-tokens", "2048"]
    done = launch(str(make_checkpoint("llama")), str(tmp_path / "there"), *words)
    assert done.returncode != 0 and "error: " in done.stderr and "exitcode  : 2 " in done.stderr
    assert not list((tmp_path / "there").iterdir())


def test_a_text_with_fewer_batches_than_processes_is_refused() -> None:
    with pytest.raises(ConvertError, match="2 batches of 2 rows is too short for 3 processes"):
        Share(0, 3).rows(ROWS, 2)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m convert`` in two processes."""
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    return subprocess.run(
        [*command, "-m", "convert", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
