"""Tiny random checkpoints with a real tokenizer, made once per run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MinistralConfig,
    MinistralForCausalLM,
    PreTrainedTokenizerFast,
)

from eval.checkpoint import Loaded, find_checkpoint, load
from eval.corpus import synthetic_text
from eval.measures.base import Ask
from eval.retrieval.prompts import KEYS, NEEDLE, QUESTION
from eval.text import read_text

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level vocabulary of 400 with single digits and a BOS token that it does not add by itself."""
    words = [synthetic_text(60), *(NEEDLE.format(key=key, value="12345") + " " for key in KEYS)]
    words += [QUESTION.format(key=key) for key in KEYS]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def make_checkpoint(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> MakeCheckpoint:
    """A function that writes a random model: ``make(seed=0, window=None, **config)`` -> folder."""

    def make(seed: int = 0, window: int | None = None, dtype: Any = torch.float32, **changes: Any) -> Path:
        settings: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        }
        torch.manual_seed(seed)
        model: Any
        if window is None:
            model = LlamaForCausalLM(LlamaConfig(**settings))
        else:
            types = ["sliding_attention", "full_attention", "sliding_attention"]
            model = MinistralForCausalLM(
                MinistralConfig(sliding_window=window, layer_types=types, **settings)
            )
        folder = tmp_path_factory.mktemp("checkpoint")
        model.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def dense(make_checkpoint: MakeCheckpoint) -> Path:
    """A dense Llama of three layers and up to 512 tokens."""
    return make_checkpoint()


@pytest.fixture(scope="session")
def sliding(make_checkpoint: MakeCheckpoint) -> Path:
    """Two sliding layers of 32 tokens around a full one; the same weights as ``dense``."""
    return make_checkpoint(window=32)


@pytest.fixture(scope="session")
def loaded_dense(dense: Path) -> Loaded:
    """``dense`` in memory."""
    return load(find_checkpoint("dense", dense), torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Ask]:
    """A function that puts a question to a measure, on the built-in text, with seed 0."""
    text = read_text(None)

    def make(subject: Loaded, section: Any, baseline: Loaded | None = None, seed: int = 0) -> Ask:
        return Ask(subject, baseline, section, text, seed, None, lambda _amount: None)

    return make


@pytest.fixture(autouse=True)
def no_environment_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval asks pip, git and the compilers what is installed after every evaluation: seconds, unused."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _results: None)
