"""How answers are counted, and what the rates of a perfect, an ignorant and a windowed reader are."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from eval.checkpoint import Loaded
from eval.compare import rows_of
from eval.errors import EvalError
from eval.measures import needle
from eval.memory import LayerCache
from eval.results import Outcome
from eval.retrieval import KINDS, kind_table
from eval.retrieval.document import Document
from eval.retrieval.scoring import exact, found, share_found
from eval.retrieval.summary import rate_of
from eval.sections import NeedleSection
from eval.strict import parse_strict
from eval.suite import Suite
from patches.cache.policies.policy import Place


@pytest.mark.parametrize(
    ("answer", "contained", "alone"),
    [
        (" 12345.", True, True),
        (" is: 12345", True, True),
        (" 123456", True, False),
        (" 1234.", False, False),
        (" 99999. 12345", True, False),
        ("", False, False),
    ],
)
def test_an_answer_contains_the_value_or_is_exactly_it(answer: str, contained: bool, alone: bool) -> None:
    assert found(answer, "12345") is contained
    assert exact(answer, ["12345"]) is alone


def test_several_values_and_words_are_counted_in_shares() -> None:
    assert share_found(" 11, 22 and 44.", ["11", "22", "33", "44"]) == 0.75
    assert exact(" 22, 11.", ["11", "22"]) and not exact(" 11, 33, 22.", ["11", "22"])
    assert found("The Hat, a cup.", "hat") and not found("that one", "hat")


def pretend(monkeypatch: pytest.MonkeyPatch, answer: Callable[[Document], str]) -> None:
    def generate(_ask: Any, documents: Sequence[Document]) -> list[str]:
        return [answer(document) for document in documents]

    monkeypatch.setattr(needle, "generate", generate)


def test_perfect_and_ignorant_readers_are_told_apart(
    loaded_dense: Loaded, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = NeedleSection(kinds=list(KINDS), lengths=[400], depths=[0.0, 1.0], samples=2, controls=3)
    question = ask(loaded_dense, section)
    pretend(monkeypatch, lambda document: document.answer if document.evidence else " 0.")
    outcome = needle.run(question)
    values = {metric.key: metric for metric in outcome.metrics}
    for name, kind in KINDS.items():
        assert values[name].value == 100.0
        assert values[name].n == (4 if kind.by_depth else 2)
        assert values[name].interval is not None and values[name].interval[0] < 60
        assert values[f"{name}_inside"].value == 100.0
        assert values[f"{name}_removed"].value == 0.0
        assert (f"{name}_exact" in values) == (name not in ("variable-tracking", "common-words"))
    assert outcome.warnings == []
    cells = sum(cell["n"] for kind in outcome.detail["kinds"].values() for cell in kind["cells"])
    assert cells == len(outcome.samples) == 8 * (4 + 6) + 2 + 6

    pretend(monkeypatch, lambda document: " 0.")
    outcome = needle.run(question)
    assert {metric.value for metric in outcome.metrics} == {0.0}
    (warning,) = outcome.warnings
    assert all(f"{name} 0 of 3" in warning for name in KINDS)


def test_a_share_has_the_error_of_shares(
    loaded_dense: Loaded, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = NeedleSection(kinds=["multi-value"], lengths=[400], depths=[0.5], samples=4, controls=1)
    turns = iter([1, 2, 3, 4, 4, 4])
    pretend(monkeypatch, lambda document: " ".join(document.values[: next(turns)]))
    rate = needle.run(ask(loaded_dense, section)).metrics[0]
    assert rate.value == pytest.approx(62.5)
    spread = sum((share - 0.625) ** 2 for share in (0.25, 0.5, 0.75, 1.0))
    assert rate.stderr == pytest.approx(100 * (spread / 3 / 4) ** 0.5)


def test_rates_beyond_the_window_are_compared_over_the_same_documents(
    loaded_dense: Loaded, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader with a window of 150 and 40 sinks against one that sees everything."""
    shape = replace(loaded_dense.checkpoint.shape, window=150, layers=(LayerCache(Place(0, 150, 40, 1)),))
    windowed = replace(loaded_dense, checkpoint=replace(loaded_dense.checkpoint, shape=shape))
    section = NeedleSection(lengths=[400], depths=[0.0, 0.5, 1.0], samples=3, controls=2)
    pretend(monkeypatch, lambda document: document.answer if document.evidence else "")
    full = needle.run(ask(loaded_dense, section))
    pretend(
        monkeypatch, lambda document: "" if document.region(150, 40) in (None, "beyond") else document.answer
    )
    narrow = needle.run(ask(windowed, section))
    rates = {metric.key: (metric.value, metric.n) for metric in narrow.metrics}
    assert rates["needle_sinks"] == (100.0, 3)
    assert rates["needle_beyond"] == (0.0, 3)
    assert rates["needle_within"] == (100.0, 3)
    assert rates["needle"] == (pytest.approx(200 / 3), 9)
    rows = {row.key: row for row in rows_of({"needle": {"full": full, "narrow": narrow}}, ["full", "narrow"])}
    assert rows["needle_beyond"].cells["narrow"].delta == -100.0
    assert rows["needle_beyond"].cells["narrow"].delta_stderr == 0.0
    assert rows["needle_within"].cells["narrow"].delta == 0.0
    assert "full" not in rows["needle_beyond"].cells
    cells = {
        cell["depth"]: cell for cell in narrow.detail["kinds"]["needle"]["cells"] if cell["depth"] == 0.0
    }
    assert cells[0.0]["sinks"] == 3 and cells[0.0]["beyond"] == 0


def test_parts_are_compared_over_the_same_documents_where_the_baseline_has_a_window_too() -> None:
    def outcome(scores: list[float], part: list[int]) -> Outcome:
        beyond = rate_of("needle_beyond", "beyond", [scores[index] for index in part], False)
        of_whole = beyond.model_copy(update={"part_of": "needle", "part": part})
        return Outcome(metrics=[rate_of("needle", "all", scores, True), of_whole], read="the same")

    by_name = {"wide": outcome([1, 1, 0, 0], [0, 1]), "narrow": outcome([1, 1, 1, 0], [1, 2, 3])}
    (_, row) = rows_of({"needle": by_name}, ["wide", "narrow"])
    # Of documents 1, 2 and 3 the wide one answers one; of the two beyond its own window it answers both.
    assert (row.cells["wide"].value, row.cells["narrow"].value) == (100.0, pytest.approx(200 / 3))
    assert row.cells["narrow"].delta == pytest.approx(100 / 3)
    assert row.cells["narrow"].delta_interval is not None


def test_a_random_model_answers_every_document(loaded_dense: Loaded, ask: Callable[..., Any]) -> None:
    section = NeedleSection(
        kinds=["needle", "passkey"], lengths=[160, 200], depths=[0.5], samples=1, controls=1
    )
    outcome = needle.run(ask(loaded_dense, section))
    assert len(outcome.samples) == 12
    assert all(isinstance(sample["answer"], str) for sample in outcome.samples)
    assert {sample["kind"] for sample in outcome.samples} == {"needle", "passkey"}


def test_a_length_without_room_is_refused_before_the_first_answer(
    loaded_dense: Loaded, ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(document: Document) -> str:
        raise AssertionError("answered")

    pretend(monkeypatch, never)
    section = NeedleSection(kinds=["needle", "linked-detail"], lengths=[400, 160], samples=1, controls=1)
    with pytest.raises(EvalError, match="160 tokens have no room for the facts of 'linked-detail'"):
        needle.run(ask(loaded_dense, section))


def test_kinds_are_named_strictly_and_once(loaded_dense: Loaded) -> None:
    with pytest.raises(EvalError, match=r"needle.kinds.*unknown kind 'multikey': did you mean 'multi-key'"):
        parse_strict(Suite, {"needle": {"kinds": ["multikey"]}})
    with pytest.raises(EvalError, match=r"needle\.kinds must not repeat"):
        needle.check(loaded_dense.checkpoint, NeedleSection(kinds=["needle", "needle"]))


def test_the_registry_names_what_it_holds() -> None:
    assert all(name == kind.name for name, kind in KINDS.items())
    assert len(kind_table()) == 2 + len(KINDS)
    assert len({kind.title for kind in KINDS.values()}) == len(KINDS)
