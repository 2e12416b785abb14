"""Checkpoints to compare: found on disk, told apart by digest, loaded on demand."""

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.utils import logging as transformers_logging

import patches  # noqa: F401  registers the windowed model types
from eval.errors import EvalError
from eval.memory import CacheShape, cache_shape
from eval.results import CheckpointRecord

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LOAD_ERRORS = (ValueError, OSError, KeyError, TypeError, RuntimeError, ImportError, AttributeError)
_MODEL = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.bin")
_TOKENIZER = (
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template*", "additional_chat_templates/*"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder and what can be known without loading its weights.

    Attributes:
        allowed_length: Longest input the model is defined for; None where positions live in the cache.
    """

    name: str
    path: Path
    record: CheckpointRecord
    shape: CacheShape
    stored_dtype: torch.dtype
    allowed_length: int | None

    def check_length(self, length: int, what: str) -> None:
        """Refuse what the model would only answer by truncation or by positions it never saw.

        Raises:
            EvalError: ``length`` is more than ``max_position_embeddings`` and positions are absolute.
        """
        if self.allowed_length is not None and length > self.allowed_length:
            raise EvalError(
                f"{what} of {length} tokens is too long for {self.name!r}: its config allows "
                f"{self.allowed_length} (max_position_embeddings)"
            )


@dataclass
class Loaded:
    """A checkpoint in memory, on the device and in the dtype of the evaluation."""

    checkpoint: Checkpoint
    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    bos: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def vocabulary(self) -> int:
        """Tokens that the model gives logits for."""
        return int(self.model.config.get_text_config().vocab_size)


def find_checkpoint(name: str, path: str | Path) -> Checkpoint:
    """Read a folder's config and digests.

    Raises:
        EvalError: the folder or its config or weights are missing or not what they should be, transformers
        refuses the config, or it is not that of a decoder with attention.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise EvalError(f"checkpoint {name!r}: {str(path)!r} is not a folder")
    if not (folder / "config.json").is_file():
        raise EvalError(f"checkpoint {name!r}: {str(path)!r} has no config.json")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise EvalError(f"checkpoint {name!r}: {str(path)!r} has no weights (*.safetensors)")
    try:
        config = AutoConfig.from_pretrained(folder)
        raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise EvalError(f"checkpoint {name!r}: config not readable: {one_line(error)}") from None
    text_config = config.get_text_config(decoder=True)
    window = getattr(text_config, "attention_window", None)
    try:
        shape = cache_shape(text_config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EvalError(
            f"checkpoint {name!r}: its {config.model_type!r} config does not describe attention layers: "
            f"{one_line(error)}"
        ) from None
    cached_positions = isinstance(window, dict) and window.get("positions") == "cache"
    allowed = None if cached_positions else getattr(text_config, "max_position_embeddings", None)
    stored = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    record = CheckpointRecord(
        name=name,
        path=str(path),
        digest=_digest(folder, _MODEL),
        tokenizer_digest=_digest(folder, _TOKENIZER),
        parameters=_parameters(folder),
        config={
            "model_type": config.model_type,
            "layers": text_config.num_hidden_layers,
            "heads": text_config.num_attention_heads,
            "kv_heads": shape.kv_heads[0] if len(set(shape.kv_heads)) == 1 else list(shape.kv_heads),
            "head_dim": shape.head_dim,
            "dtype": stored,
            "max_positions": getattr(text_config, "max_position_embeddings", None),
            "attention_window": window,
            "window": shape.window,
            "windowed_layers": shape.windowed_layers,
            "kv_cache": getattr(text_config, "kv_cache", None),
        },
    )
    dtype = DTYPES.get(stored, torch.float32)
    return Checkpoint(name, folder, record, shape, dtype, allowed)


def load(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    weights: bool = True,
    config: PreTrainedConfig | None = None,
) -> Loaded:
    """Load weights and tokenizer for measuring.

    Args:
        weights: Without them ``model`` is None, for an engine that loads the folder itself.
        config: In place of the checkpoint's own, for the same weights in another class.

    Raises:
        EvalError: transformers could not load one of them; its reason in one line.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model: Any = None
        if weights:
            model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=dtype, config=config)
            model = model.to(device).eval()
    except (*_LOAD_ERRORS, SafetensorError) as error:
        raise EvalError(f"checkpoint {checkpoint.name!r} does not load: {one_line(error)}") from None
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
    tokenizer = load_tokenizer(checkpoint)
    bos = tokenizer.bos_token_id
    return Loaded(checkpoint, model, tokenizer, device, dtype, [] if bos is None else [bos])


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        EvalError: transformers could not load it; its reason in one line.
    """
    try:
        return AutoTokenizer.from_pretrained(checkpoint.path)
    except _LOAD_ERRORS as error:
        raise EvalError(
            f"checkpoint {checkpoint.name!r}: its tokenizer does not load: {one_line(error)}"
        ) from None


def pick_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        EvalError: torch has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise EvalError(f"device {name!r} is not available: {one_line(error)}") from None
    return device


def pick_dtype(name: str, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    """``auto`` is the checkpoint's own dtype; on a CPU float32, which is faster there and as exact."""
    if name != "auto":
        if name not in DTYPES:
            raise EvalError(f"dtype {name!r} is not known: auto, {', '.join(DTYPES)}")
        return DTYPES[name]
    return torch.float32 if device.type == "cpu" else checkpoint.stored_dtype


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception's text without line breaks."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """sha256 over names and contents of the files that match, in name order."""
    sha = hashlib.sha256()
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    for path in sorted(found):
        sha.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            sha.update(hashlib.file_digest(file, "sha256").digest())
    return sha.hexdigest()


def _parameters(folder: Path) -> int:
    """Stored parameters, from the headers of the safetensors files; 0 where there are none."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size <= path.stat().st_size:
                raise EvalError(f"{path}: truncated safetensors file")
            header = file.read(size)
        try:
            entries = json.loads(header).items()
            total += sum(math.prod(entry["shape"]) for key, entry in entries if key != "__metadata__")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvalError(f"{path}: not a safetensors file: {one_line(error)}") from None
    return total
