"""Needle documents: exact length, depth, seed, controls; and how answers are counted."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.measures import needle
from eval.retrieval.documents import Document, DocumentMaker
from eval.retrieval.prompts import NEEDLE, QUESTION
from eval.sections import NeedleSection
from eval.text import read_text


@pytest.fixture(scope="module")
def maker(loaded_dense: Loaded) -> DocumentMaker:
    return DocumentMaker(read_text(None), loaded_dense.tokenizer, loaded_dense.bos, digits=5)


@pytest.mark.parametrize("length", [200, 201, 256, 399])
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_length_depth_and_needle(
    maker: DocumentMaker, loaded_dense: Loaded, length: int, depth: float
) -> None:
    document = maker.make("depth", length, depth, random.Random(f"{length}/{depth}"))
    assert len(document.ids) + document.answer_tokens == length
    assert document.ids[0] == loaded_dense.tokenizer.bos_token_id
    sentence = NEEDLE.format(key=document.key, value=document.value)
    text = loaded_dense.tokenizer.decode(document.ids, skip_special_tokens=True)
    assert text.count(sentence) == 1
    assert text.endswith(" " + QUESTION.format(key=document.key))
    assert document.needle_at is not None
    tail = loaded_dense.tokenizer.decode(document.ids[document.needle_at :])
    assert tail.lstrip().startswith(sentence)
    assert document.distance == length - document.needle_at
    before = document.needle_at - 1
    after = len(document.ids) - document.needle_at - _size(loaded_dense, sentence, document)
    assert before / max(1, before + after) == pytest.approx(depth, abs=0.22)
    if depth == 0.0:
        assert document.needle_at == 1
    if depth == 1.0:
        assert after <= 1


def _size(loaded: Loaded, sentence: str, document: Document) -> int:
    """Tokens of the needle and of the question after it."""
    question = QUESTION.format(key=document.key)
    return len(loaded.tokenizer.encode(f"{sentence} {question}", add_special_tokens=False))


def test_the_answer_has_room(maker: DocumentMaker, loaded_dense: Loaded) -> None:
    question = QUESTION.format(key="apple")
    whole = loaded_dense.tokenizer.encode(f"{question} 90909.", add_special_tokens=False)
    alone = loaded_dense.tokenizer.encode(question, add_special_tokens=False)
    assert maker.answer_tokens == len(whole) - len(alone)


def test_same_seed_same_document(maker: DocumentMaker) -> None:
    one, two, three = (maker.make("depth", 220, 0.5, random.Random(seed)) for seed in (7, 7, 8))
    assert one == two
    assert one != three


def test_removed_has_no_value_and_inside_stands_at_the_end(
    maker: DocumentMaker, loaded_dense: Loaded
) -> None:
    removed = maker.make("removed", 256, 0.0, random.Random(1))
    text = loaded_dense.tokenizer.decode(removed.ids)
    assert len(removed.ids) + removed.answer_tokens == 256
    assert removed.value not in text
    assert "one of the special magic numbers" not in text
    inside = maker.make("inside", 256, 0.0, random.Random(1))
    sentence = NEEDLE.format(key=inside.key, value=inside.value)
    assert loaded_dense.tokenizer.decode(inside.ids).endswith(f"{sentence} {QUESTION.format(key=inside.key)}")


def test_no_room_is_an_error(maker: DocumentMaker) -> None:
    with pytest.raises(EvalError, match=r"40 tokens have no room .* or more are needed"):
        maker.make("depth", 40, 0.5, random.Random(0))


@pytest.mark.parametrize(
    ("answer", "found", "exact"),
    [
        (" 12345.", True, True),
        (" is: 12345", True, True),
        (" 123456", True, False),
        (" 1234.", False, False),
        (" 99999. 12345", True, False),
        ("", False, False),
    ],
)
def test_an_answer_contains_the_value_or_is_exactly_it(answer: str, found: bool, exact: bool) -> None:
    assert needle.found(answer, "12345") is found
    assert needle.exact(answer, "12345") is exact


def test_perfect_and_ignorant_models_are_told_apart(
    loaded_dense: Loaded, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = NeedleSection(lengths=[200, 256], depths=[0.0, 1.0], samples=2, controls=3, digits=4)
    question = ask(loaded_dense, section)

    def perfect(_ask: Any, documents: list[Document]) -> list[str]:
        texts = (loaded_dense.tokenizer.decode(document.ids) for document in documents)
        pairs = zip(documents, texts, strict=True)
        return [f" {document.value}." if document.value in text else " 0." for document, text in pairs]

    monkeypatch.setattr(needle, "generate", perfect)
    values = {metric.key: metric for metric in needle.run(question).metrics}
    assert values["needle"].value == 100.0
    assert values["needle"].n == 8
    assert values["needle"].interval is not None and values["needle"].interval[0] < 75
    assert values["needle_inside"].value == 100.0
    assert values["needle_removed"].value == 0.0

    monkeypatch.setattr(needle, "generate", lambda _ask, documents: [" 0."] * len(documents))
    outcome = needle.run(question)
    assert {metric.value for metric in outcome.metrics} == {0.0}
    assert sum(cell["n"] for cell in outcome.detail["cells"]) == len(outcome.samples) == 8 + 2 * 6


def test_a_random_model_answers_every_document(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    section = NeedleSection(lengths=[160, 200], depths=[0.5], samples=1, controls=1, digits=3)
    outcome = needle.run(ask(loaded_dense, section))
    assert len(outcome.samples) == 6
    assert all(isinstance(sample["answer"], str) for sample in outcome.samples)
