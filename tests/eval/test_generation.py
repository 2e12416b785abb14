"""Measured generation obeys the measure alone: what a checkpoint says about generation changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from eval.checkpoint import Loaded
from eval.generation import continue_greedily, generate_greedily
from eval.measures import footprint, speed
from eval.sections import FootprintSection, SpeedSection

TOKENS = 12


@pytest.fixture
def settings(loaded_dense: Loaded, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that gives the model generation settings, as its folder could have brought them."""

    def give(**changes: Any) -> None:
        monkeypatch.setattr(loaded_dense.model, "generation_config", GenerationConfig(**changes))

    return give


def prompts(loaded: Loaded) -> torch.Tensor:
    return torch.randint(3, loaded.vocabulary, (3, 20), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"repetition_penalty": 9.0},
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"eos_token_id": list(range(3, 400))},
        {"suppress_tokens": list(range(200))},
        {"use_cache": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("to_the_end", [True, False])
def test_the_settings_of_a_checkpoint_are_not_used(
    changes: dict[str, Any], to_the_end: bool, loaded_dense: Loaded, settings: Callable[..., None]
) -> None:
    settings()
    ids = prompts(loaded_dense)
    tokens, logits = continue_greedily(loaded_dense, ids, TOKENS, to_the_end)
    settings(**changes)
    again, same = continue_greedily(loaded_dense, ids, TOKENS, to_the_end)
    assert torch.equal(tokens, again)
    if to_the_end:
        assert again.shape == (3, TOKENS)
        assert all(torch.equal(a, b) for a, b in zip(logits, same, strict=True))


def test_the_model_keeps_its_settings(loaded_dense: Loaded, settings: Callable[..., None]) -> None:
    settings(repetition_penalty=3.0)
    own = loaded_dense.model.generation_config
    generate_greedily(loaded_dense, prompts(loaded_dense), 2)
    assert loaded_dense.model.generation_config is own
    with pytest.raises(AttributeError):
        generate_greedily(loaded_dense, prompts(loaded_dense), 2, cache="no cache")
    assert loaded_dense.model.generation_config is own and own.repetition_penalty == 3.0


def test_memory_and_speed_are_measured_to_the_last_token(
    loaded_dense: Loaded, settings: Callable[..., None], ask: Callable[..., Any]
) -> None:
    settings(use_cache=False, eos_token_id=list(range(400)), num_beams=2)
    outcome = footprint.run(ask(loaded_dense, FootprintSection(lengths=[4, 40])))
    held = {metric.key: metric.value for metric in outcome.metrics}
    assert held["kv_bytes@4"] == held["kv_predicted@4"] and held["kv_bytes@40"] == held["kv_predicted@40"]
    timed = speed.run(ask(loaded_dense, SpeedSection(length=8, decode_tokens=3, repeats=2)))
    assert all(metric.value and metric.n == 2 for metric in timed.metrics)
