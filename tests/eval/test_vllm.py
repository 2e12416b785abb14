"""The vLLM backend: what is refused, and what lm-eval's vLLM model is given. vLLM itself is not here."""

import importlib
import json
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from convert import Request, convert
from eval import run as run_module
from eval.checkpoint import Loaded, find_checkpoint, load
from eval.errors import EvalError
from eval.measures import tasks
from eval.parallel import Peers
from eval.run import evaluate
from eval.sections import TasksSection
from eval.strict import parse_strict
from eval.suite import Suite

NAMES = ["headroom_ending", "headroom_needle"]
PACKAGE = {
    "__init__.py": None,
    "lora/__init__.py": "",
    "lora/request.py": "class LoRARequest: ...\n",
    "renderers/__init__.py": "",
    "renderers/hf.py": "def resolve_chat_template(**_):\n    return None\n",
    "tokenizers.py": (
        "from transformers import AutoTokenizer\n\n"
        "def get_tokenizer(name, **_):\n    return AutoTokenizer.from_pretrained(name)\n"
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An importable package named vllm, version 0.11.0, without an engine of its own."""
    site = tmp_path_factory.mktemp("site")
    for name, text in PACKAGE.items():
        path = site / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            shutil.copy(Path(__file__).with_name("fake_vllm.py"), path)
        else:
            path.write_text(text)
    metadata = site / "vllm-0.11.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.11.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("vllm")
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]


@pytest.fixture
def vllm(package: Any) -> Any:
    """That package, with no engine made yet."""
    package.MADE.clear()
    return package


@pytest.fixture(scope="module")
def native(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(max_position_embeddings=1024)


def on_vllm(**changes: Any) -> TasksSection:
    return TasksSection.model_validate({"names": NAMES, "limit": 3, "backend": "vllm", **changes})


def without_weights(folder: Path) -> Loaded:
    return load(find_checkpoint("native", folder), torch.device("cpu"), torch.float32, weights=False)


@pytest.mark.parametrize("bos", ["tokenizer", "always"])
def test_scores_are_those_of_the_other_backend(
    bos: str, native: Path, ask: Callable[..., Any], vllm: Any
) -> None:
    loaded = load(find_checkpoint("native", native), torch.device("cpu"), torch.float32)
    expected = tasks.run(ask(loaded, on_vllm(bos=bos, backend="hf")))
    tasks.check(loaded.checkpoint, on_vllm(bos=bos))
    outcome = tasks.run(ask(without_weights(native), on_vllm(bos=bos)))
    (made,) = vllm.MADE
    given = {key: made[key] for key in ("model", "dtype", "max_model_len", "trust_remote_code")}
    assert given == {
        "model": str(native),
        "dtype": "float32",
        "max_model_len": 1024,
        "trust_remote_code": False,
    }
    assert [(m.key, m.per_sample) for m in outcome.metrics] == [
        (m.key, m.per_sample) for m in expected.metrics
    ]
    for mine, theirs in zip(outcome.samples, expected.samples, strict=True):
        assert mine["prompt"] == theirs["prompt"]
        if mine["task"] == "headroom_needle":
            assert mine["answer"] == theirs["answer"]
        else:
            scores = zip(mine["answer"], theirs["answer"], strict=True)
            assert all(a[0] == pytest.approx(b[0], abs=1e-4) and a[1] == b[1] for a, b in scores)
    assert {how["through"] for how in outcome.detail["tasks"].values()} == {"vLLM, its own mask and cache"}


def test_weights_are_gone_when_vllm_comes(
    native: Path, vllm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def watched(*arguments: Any, **settings: Any) -> Loaded:
        loaded = load(*arguments, **settings)
        models.extend([weakref.ref(loaded.model)] if loaded.model is not None else [])
        return loaded

    class Engine(vllm.LLM):
        def __init__(self, **settings: Any) -> None:
            alive.append(sum(model() is not None for model in models))
            super().__init__(**settings)

    monkeypatch.setattr(run_module, "load", watched)
    monkeypatch.setattr("lm_eval.models.vllm_causallms.LLM", Engine)
    suite = {"name": "v", "perplexity": {"length": 64, "contexts": 2}, "tasks": on_vllm().model_dump()}
    results = evaluate([("a", native), ("b", native)], parse_strict(Suite, suite), tmp_path / "out")
    assert (len(models), alive) == (2, [0, 0])
    assert {row.measure for row in results.rows} == {"perplexity", "tasks"}
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["details"]["tasks"]["b"]["tasks"]["headroom_ending"]["batch_size"] == "vLLM's own"


def test_an_overlong_request_is_refused(
    make_checkpoint: Callable[..., Path], ask: Callable[..., Any], vllm: Any
) -> None:
    short = without_weights(make_checkpoint(max_position_embeddings=64))
    for name in NAMES:
        with pytest.raises(EvalError, match=rf"task '{name}': .* longer than 'native' allows \(64"):
            tasks.run(ask(short, on_vllm(names=[name])))


def test_it_is_refused_where_it_is_not_installed(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(EvalError, match="backend 'vllm' needs the package vllm, which is not installed"):
        tasks.check(find_checkpoint("native", native), on_vllm())


def test_a_windowed_checkpoint_is_refused(dense: Path, tmp_path: Path, vllm: Any) -> None:
    convert(Request(str(dense), tmp_path / "windowed", window=16, sinks=2))
    checkpoint = find_checkpoint("mine", tmp_path / "windowed")
    with pytest.raises(EvalError, match=r"cannot run 'mine': .*'windowed_llama'.* attend densely"):
        tasks.check(checkpoint, on_vllm())
    tasks.check(checkpoint, on_vllm(backend="hf"))


def test_processes_and_devices_by_number_are_refused(
    native: Path, ask: Callable[..., Any], vllm: Any
) -> None:
    subject = without_weights(native)
    with pytest.raises(EvalError, match="runs in one process"):
        tasks.run(replace(ask(subject, on_vllm()), peers=Peers(0, 2)))
    with pytest.raises(EvalError, match="CUDA_VISIBLE_DEVICES"):
        tasks.run(ask(replace(subject, device=torch.device("cuda:1")), on_vllm()))
