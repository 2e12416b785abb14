"""Text on its way into training: every kind of source, and documents packed into rows."""

import json

import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import AutoTokenizer

from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import Data
from recipes.uptrain.packing import IGNORED, PackedRows
from recipes.uptrain.sources import read_documents

TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint")


def read(**data):
    return list(read_documents(TypeAdapter(Data).validate_python(data), TOKENIZER))


def test_a_text_file_is_parted_at_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\none\nstill one\n\n\ntwo\n")
    assert read(kind="file", file=str(path)) == ["one\nstill one", "two"]


def test_a_jsonl_file_and_a_dataset_of_it_are_the_same(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"story": text}) + "\n" for text in ("one", "two")))
    assert read(kind="file", file=str(path), column="story") == ["one", "two"]
    options = {"kind": "dataset", "dataset": "json", "data_files": str(path), "column": "story"}
    assert read(**options) == read(**options, streaming=True) == ["one", "two"]


def test_retrieval_documents_hold_their_evidence_and_answer(tmp_path):
    options = {"kind": "retrieval", "file": str(SHIPPED / "tiny" / "heldout.txt"), "documents": 8}
    options |= {"kinds": ["needle", "multi-key"], "lengths": [120, 200], "digits": 5}
    texts = read(**options)
    assert texts == read(**options) != read(**options, seed=1)
    assert len({text.split()[0] for text in texts}) > 1
    for number, text in enumerate(texts):
        said = text.rpartition("is: ")[2].rstrip(".")
        assert said.isdecimal() and len(said) == 5 and text.count(said) == 2
        assert text.count("one of the special magic numbers") == (4 if number % 2 else 1)
        # One for BOS; answers of fewer tokens than the longest leave some over.
        assert 110 <= len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) + 1 <= 202


def test_retrieval_data_says_what_it_cannot_do(tmp_path):
    with pytest.raises(ValidationError, match=r"kind 'needles'.*did you mean 'needle'"):
        read(kind="retrieval", file="x", kinds=["needles"])
    with pytest.raises(RecipeError, match=r"retrieval data: text file .* is not readable"):
        read(kind="retrieval", file=str(tmp_path / "no.txt"))
    text = str(SHIPPED / "tiny" / "heldout.txt")
    with pytest.raises(RecipeError, match=r"retrieval data: .* 32 tokens have no room"):
        read(kind="retrieval", file=text, lengths=[32])


def test_tiny_documents_hold_their_answers():
    texts = read(kind="tiny", documents=6, tokens=200, needle_share=1.0, needles=2, seed=5)
    assert len(texts) == 6
    for text in texts:
        assert text.count("what is the special magic number") == 2
        assert len(TOKENIZER(text)["input_ids"]) <= 200


def test_tiny_documents_too_short_for_their_needles_are_refused():
    with pytest.raises(RecipeError, match="tiny data: tokens=64 is too short for 9 needles"):
        read(kind="tiny", documents=2, tokens=64, needle_share=1.0, needles=9)


@pytest.mark.parametrize(
    "name,content,said",
    [
        ("a.jsonl", '{"text": "x"}\nnot json\n', "line 2: not JSON"),
        ("a.jsonl", '{"story": "x"}\n', "no text column 'text'; it has story"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_text_that_cannot_be_read_is_one_clear_line(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=said) as caught:
        read(kind="file", file=str(path))
    assert "\n" not in str(caught.value)


def test_a_dataset_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(RecipeError, match="data set 'json' cannot be read"):
        read(kind="dataset", dataset="json", data_files=str(tmp_path / "none.jsonl"))


def rows_of(texts, length):
    return list(PackedRows(lambda: texts, TOKENIZER, length).epoch())


def test_rows_begin_with_bos_keep_documents_whole_and_lose_no_token():
    texts = ["one day tom went to the park."] * 7
    size = len(TOKENIZER(texts[0], add_special_tokens=False)["input_ids"]) + 1
    rows = rows_of(texts, 1 + 2 * size + 3)
    assert len(rows) == 4
    counted = [row["labels"][row["labels"] != IGNORED].tolist() for row in rows]
    assert all(tokens[0] == TOKENIZER.bos_token_id for tokens in counted)
    assert [len(tokens) for tokens in counted] == [1 + 2 * size] * 3 + [1 + size]
    for row in rows:
        assert row["attention_mask"].sum() == (row["labels"] != IGNORED).sum()
        assert set(row["attention_mask"].diff().tolist()) <= {0, -1}


def test_rows_never_end_unless_there_are_none():
    rows = iter(PackedRows(lambda: ["tom saw a bird."], TOKENIZER, 20))
    first, second = next(rows), next(rows)
    assert first["input_ids"].tolist() == second["input_ids"].tolist()
    assert list(PackedRows(list, TOKENIZER, 20)) == []


def test_a_document_longer_than_a_row_goes_on_in_the_next():
    text = " ".join(["tom saw a red bird."] * 40)
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"] + [TOKENIZER.eos_token_id]
    rows = rows_of([text], 50)
    joined = [token for row in rows for token in row["labels"][row["labels"] != IGNORED].tolist()[1:]]
    assert joined == tokens
