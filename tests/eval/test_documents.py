"""Documents of retrieval: exact length, depth, seed, controls, and what answers every kind."""

import random
import re
from typing import Any

import pytest

from eval.checkpoint import Loaded
from eval.errors import EvalError
from eval.retrieval import KINDS
from eval.retrieval.document import Document
from eval.retrieval.documents import DocumentMaker
from eval.retrieval.kind import Condition, Draw, listed
from eval.retrieval.needle import SINGLE_NEEDLE
from eval.retrieval.prompts import NEEDLE, QUESTION
from eval.text import read_text


@pytest.fixture(scope="module")
def maker(loaded_dense: Loaded) -> DocumentMaker:
    return DocumentMaker(read_text(None), loaded_dense.tokenizer, loaded_dense.bos, digits=5)


def decoded(loaded: Loaded, ids: list[int]) -> str:
    text: str = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    return text


@pytest.mark.parametrize("length", [200, 201, 256, 399])
@pytest.mark.parametrize("depth", [0.0, 0.3, 0.5, 1.0])
def test_length_depth_and_needle(
    maker: DocumentMaker, loaded_dense: Loaded, length: int, depth: float
) -> None:
    document = maker.make(SINGLE_NEEDLE, "depth", length, depth, random.Random(f"{length}/{depth}"))
    assert len(document.ids) + document.answer_tokens == length
    assert document.ids[0] == loaded_dense.tokenizer.bos_token_id
    key = re.search(r"number for (\w+) is:$", document.question)
    assert key is not None and document.question == QUESTION.format(key=key[1])
    sentence = NEEDLE.format(key=key[1], value=document.values[0])
    text = decoded(loaded_dense, document.ids)
    assert text.count(sentence) == 1
    assert text.endswith(f" {document.question}")
    ((start, end),) = document.evidence
    assert decoded(loaded_dense, document.ids[start:end]).strip() == sentence
    assert document.distance == length - start
    before = start - 1
    after = len(document.ids) - end - len(loaded_dense.tokenizer.encode(document.question))
    assert before / max(1, before + after) == pytest.approx(depth, abs=0.22)
    if depth == 0.0:
        assert start == 1
    if depth == 1.0:
        assert after <= 1


def test_the_answer_has_room(maker: DocumentMaker, loaded_dense: Loaded) -> None:
    question = QUESTION.format(key="apple")
    whole = loaded_dense.tokenizer.encode(f"{question} 90909.", add_special_tokens=False)
    alone = loaded_dense.tokenizer.encode(question, add_special_tokens=False)
    assert maker.answer_tokens(SINGLE_NEEDLE) == len(whole) - len(alone)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_length_and_its_evidence(
    name: str, maker: DocumentMaker, loaded_dense: Loaded
) -> None:
    for number, depth in enumerate((0.0, 0.4, 0.4, 1.0)):
        document = maker.make(KINDS[name], "depth", 420, depth, random.Random(number))
        assert len(document.ids) + document.answer_tokens == 420
        answer = loaded_dense.tokenizer.encode(document.question + document.answer, add_special_tokens=False)
        question = loaded_dense.tokenizer.encode(document.question, add_special_tokens=False)
        assert len(answer) - len(question) <= document.answer_tokens
        assert document.answer == f" {listed(document.values)}."
        text = decoded(loaded_dense, document.ids)
        assert text.replace(" ", "") == document.text.replace(" ", "")
        assert document.text.endswith(document.question)
        parts = (decoded(loaded_dense, document.ids[start:end]) for start, end in document.evidence)
        evidence = " ".join(parts)
        for value in document.values:
            assert re.search(rf"\b{value}\b", evidence)


@pytest.mark.parametrize("name", KINDS)
def test_removed_has_no_evidence_and_inside_has_it_at_the_end(
    name: str, maker: DocumentMaker, loaded_dense: Loaded
) -> None:
    removed = maker.make(KINDS[name], "removed", 420, 0.0, random.Random(1))
    assert len(removed.ids) + removed.answer_tokens == 420
    assert removed.evidence == () and removed.distance is None and removed.depth is None
    haystack = removed.text.removesuffix(removed.question)
    for value in removed.values:
        if value.isdigit():
            assert value not in haystack
        else:
            assert f"let {value} be" not in haystack
    inside = maker.make(KINDS[name], "inside", 420, 0.0, random.Random(1))
    needed = inside.distance
    assert needed is not None and needed < 300
    assert inside.region(needed, 0) == "within"


def test_common_words_are_common_and_without_evidence_are_not(maker: DocumentMaker) -> None:
    kind = KINDS["common-words"]

    def counts(condition: Condition) -> tuple[list[int], list[int]]:
        document = maker.make(kind, condition, 2000, 0.0, random.Random(2))
        words = re.findall(r"(\w+),", document.text)
        others = set(words) - set(document.values)
        return [words.count(word) for word in document.values], [words.count(word) for word in others]

    common, rare = counts("depth")
    assert min(common) >= 3 * max(rare)
    common, rare = counts("removed")
    assert max(common) <= 2 * min(rare)


def test_variables_form_a_chain() -> None:
    puzzle = KINDS["variable-tracking"].draw(Draw(random.Random(3), "depth", 0.2, 4))
    chain = [fact.text for fact in puzzle.facts if fact.needed]
    known = re.findall(r"let (\w+) be (\d+)\.", chain[0])
    value = known[0][1]
    names = [known[0][0]]
    for text in chain[1:]:
        name, before = re.findall(r"let (\w+) be the same as (\w+)\.", text)[0]
        assert before == names[-1]
        names.append(name)
    assert tuple(names) == puzzle.values and value in puzzle.question
    depths = [fact.depth for fact in puzzle.facts if fact.needed]
    assert depths[0] == 0.2 and depths == sorted(depths)


def test_a_linked_detail_needs_both_ends() -> None:
    puzzle = KINDS["linked-detail"].draw(Draw(random.Random(4), "depth", 0.1, 5))
    early, late = (fact for fact in puzzle.facts if fact.needed)
    name = re.search(r"was (\w+) given", puzzle.question)
    assert name is not None and name[1] in late.text and name[1] not in early.text
    code = re.search(r"the (\w+) code", early.text)
    assert code is not None and f"the {code[1]} code" in late.text
    assert puzzle.values[0] in early.text and puzzle.values[0] not in late.text
    assert early.depth == 0.1 and late.depth == 1.0
    assert len([fact for fact in puzzle.facts if not fact.needed]) == 6


@pytest.mark.parametrize("name", KINDS)
def test_same_seed_same_document(name: str, maker: DocumentMaker) -> None:
    one, two, three = (maker.make(KINDS[name], "depth", 420, 0.5, random.Random(seed)) for seed in (7, 7, 8))
    assert one == two
    assert one != three


@pytest.mark.parametrize("name", KINDS)
def test_no_room_is_an_error_that_says_how_much_is_needed(name: str, maker: DocumentMaker) -> None:
    length = 40
    for _ in range(20):
        try:
            document = maker.make(KINDS[name], "depth", length, 0.5, random.Random(0))
            break
        except EvalError as error:
            least = re.search(rf"{length} tokens have no room .* (\d+) or more are needed", str(error))
            assert least is not None and int(least[1]) > length
            length = int(least[1])
    assert 40 < length < 420
    assert len(document.ids) + document.answer_tokens == length


def test_no_document_of_any_seed_fails(maker: DocumentMaker) -> None:
    for name in KINDS:
        for number in range(25):
            depth = (0.0, 0.02, 0.1, 0.5, 1.0)[number % 5]
            document = maker.make(KINDS[name], "depth", 300, depth, random.Random(f"{name}/{number}"))
            assert len(document.ids) + document.answer_tokens == 300


def test_a_long_document_takes_moments(maker: DocumentMaker) -> None:
    document = maker.make(KINDS["linked-detail"], "depth", 32_768, 0.25, random.Random(5))
    assert len(document.ids) + document.answer_tokens == 32_768
    assert document.distance == pytest.approx(0.75 * 32_768, rel=0.02)


@pytest.mark.parametrize(
    ("evidence", "window", "sinks", "region"),
    [
        ([(60, 70)], 40, 0, "within"),
        ([(59, 70)], 40, 0, "beyond"),
        ([(1, 9)], 40, 9, "sinks"),
        ([(1, 9)], 40, 8, "beyond"),
        ([(1, 9), (80, 90)], 40, 9, "sinks"),
        ([(1, 9), (20, 30)], 40, 9, "beyond"),
        ([(1, 9)], None, 0, None),
        ([], 40, 4, None),
    ],
)
def test_the_region_is_where_window_and_sinks_end(
    evidence: list[tuple[int, int]], window: int | None, sinks: int, region: str | None
) -> None:
    rest: dict[str, Any] = {"kind": "needle", "condition": "depth", "ids": [], "text": "", "depth": 0.0}
    rest |= {"question": "", "values": (), "answer": "", "answer_tokens": 7}
    document = Document(length=100, evidence=tuple(evidence), **rest)
    assert document.region(window, sinks) == region
