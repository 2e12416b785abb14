"""Tiny random checkpoints of every family, and the command line run in this process."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from convert.__main__ import main
from convert.families import FAMILIES
from tests.convert.sources import Source
from tests.convert.tiny import CASES, tiny_sizes

Make = Callable[..., Path]


@pytest.fixture
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Build a random checkpoint: ``make_checkpoint("llama", dtype=..., shard="20KB", head_dim=4)``."""

    def make(family: str, dtype: torch.dtype = torch.float32, shard: str = "5GB", **changes: Any) -> Path:
        if family not in CONFIG_MAPPING:
            pytest.skip(f"transformers {transformers.__version__} has no {family}")
        torch.manual_seed(7)
        config = AutoConfig.for_model(family, **tiny_sizes(family, **changes))
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        folder = tmp_path_factory.mktemp(family)
        model.to(dtype).save_pretrained(folder, max_shard_size=shard)
        _save_tokenizer(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def kept() -> dict[str, Source]:
    """Sources already made; no test changes one."""
    return {}


@pytest.fixture
def source(case: str, kept: dict[str, Source], make_checkpoint: Make) -> Source:
    """The checkpoint of the case that a test is parametrized with."""
    if case not in kept:
        family, changes = CASES[case]
        kept[case] = Source(make_checkpoint(family, **changes), FAMILIES[family])
    return kept[case]


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text of the tiny tokenizer's words, each of which makes some others likely."""
    torch.manual_seed(1)
    # Each word makes the next likely, so that there is something to learn.
    words, word = [], 5
    for jump in torch.randint(1, 4, (6000,)).tolist():
        word = (word * 3 + jump) % 64
        words.append(f"w{word}")
    path = tmp_path / "text.txt"
    path.write_text(" ".join(words))
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Run ``python -m convert`` with the given words, in this process."""

    def run(*words: object) -> Finished:
        monkeypatch.setattr("sys.argv", ["convert", *map(str, words)])
        capsys.readouterr()
        code = main()
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def read_tensors() -> Callable[[Path], dict[str, torch.Tensor]]:
    """Read all tensors of a checkpoint with the safetensors library."""

    def read(folder: Path) -> dict[str, torch.Tensor]:
        return {
            name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()
        }

    return read


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Change keys of a checkpoint's ``config.json``; None removes a key."""

    def edit(folder: Path, **changes: Any) -> None:
        config = json.loads((folder / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not None or key not in changes}
        (folder / "config.json").write_text(json.dumps(kept))

    return edit


@pytest.fixture
def fake_patches(tmp_path: Path) -> Path:
    """A package with the shape of ``patches``, for the windowed tier."""
    root = tmp_path / "fake" / "patches"
    for package in (root, root / "families", root / "models"):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        (root / "families" / f"{family}.py").write_text("from patches.models.llama import Windowed\n")
    (root / "models" / "llama.py").write_text("class Windowed:\n    pass\n")
    return root


@pytest.fixture
def real_checkpoint(tmp_path: Path) -> Path:
    """A copy of a trained checkpoint from beside the repository, where there is one."""
    source = Path(__file__).parents[3] / "shared" / "data" / "checkpoints" / "stories3M-mha8"
    if not source.is_dir():
        pytest.skip("needs ../shared/data/checkpoints/stories3M-mha8, which this checkout does not have")
    return Path(shutil.copytree(source, tmp_path / "stories3M-mha8"))


def _save_tokenizer(folder: Path) -> None:
    words = {f"w{number}": number for number in range(64)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w2", eos_token="w1")
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
