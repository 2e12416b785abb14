"""Text on its way into training: every kind of source, in every order."""

import json

import pandas
import pytest
from pydantic import TypeAdapter, ValidationError
from transformers import AutoTokenizer

from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import Data, FileData
from recipes.schema.data import local_files
from recipes.uptrain.sources import open_sources, read_documents

TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED / "tiny" / "checkpoint")


def read(**data):
    return list(read_documents(TypeAdapter(Data).validate_python(data), TOKENIZER))


def test_a_text_file_is_parted_at_blank_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\none\nstill one\n\n\ntwo\n")
    assert read(kind="file", file=str(path)) == ["one\nstill one", "two"]


def test_several_files_and_patterns_are_read_in_their_order(tmp_path):
    (tmp_path / "b.txt").write_text("three\n\nfour")
    (tmp_path / "a1.txt").write_text("one")
    (tmp_path / "a2.jsonl").write_text('{"text": "two"}\n\n')
    pandas.DataFrame({"text": ["five", "six"]}).to_parquet(tmp_path / "c.parquet")
    files = [str(tmp_path / name) for name in ("a*", "b.txt", "c.parquet")]
    assert read(kind="file", file=files) == ["one", "two", "three", "four", "five", "six"]
    assert local_files(FileData(kind="file", file=files)) == sorted(tmp_path.iterdir())
    with pytest.raises(RecipeError, match=r"nothing\* does not exist"):
        read(kind="file", file=str(tmp_path / "nothing*"))


def test_a_seed_orders_documents_and_every_pass_has_its_own_order(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(str(number) for number in range(30)))
    data = TypeAdapter(Data).validate_python({"kind": "file", "file": str(tmp_path / "a.txt"), "seed": 1})
    (source,) = open_sources(data, TOKENIZER)
    first, second = list(source.documents(0, 0)), list(source.documents(1, 0))
    assert sorted(first, key=int) == sorted(second, key=int) == [str(number) for number in range(30)]
    assert first != second and first != sorted(first, key=int)
    assert list(source.documents(0, 11)) == first[11:]


def test_a_shuffled_stream_goes_on_anywhere(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": str(number)}) + "\n" for number in range(40)))
    options = {"kind": "dataset", "dataset": "json", "data_files": str(path), "streaming": True}
    data = TypeAdapter(Data).validate_python(options | {"seed": 3, "shuffle": 8})
    (source,) = open_sources(data, TOKENIZER)
    first, second = list(source.documents(0, 0)), list(source.documents(1, 0))
    assert sorted(first, key=int) == sorted(second, key=int) == [str(number) for number in range(40)]
    assert first != second and list(source.documents(0, 17)) == first[17:]


@pytest.mark.parametrize(
    "extra,said",
    [
        ({"shuffle": 8, "seed": 1}, "shuffle is the buffer of a stream"),
        ({"streaming": True, "seed": 1}, "by seed and shuffle"),
        ({"streaming": True, "shuffle": 8}, "by seed and shuffle"),
    ],
)
def test_a_shuffle_that_cannot_be_is_refused(extra, said):
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(Data).validate_python({"kind": "dataset", "dataset": "json"} | extra)


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
        ("missing.txt", None, "does not exist"),
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
