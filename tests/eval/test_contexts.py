"""Texts in their three forms, and contexts cut from them."""

import json
from pathlib import Path

import pytest

from eval.checkpoint import Loaded
from eval.contexts import pack
from eval.errors import EvalError
from eval.text import TextSource, read_text

DOCUMENTS = ("one two three.\n\nfour five six.", "seven eight nine.")


def test_three_forms_of_text(tmp_path: Path) -> None:
    plain, lines, folder = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c"
    plain.write_text("\n\n".join(DOCUMENTS))
    lines.write_text("".join(json.dumps({"text": text, "more": 1}) + "\n" for text in DOCUMENTS))
    folder.mkdir()
    for number, text in enumerate(DOCUMENTS):
        (folder / f"{number}.txt").write_text(text + "\n")
    (folder / "notes.md").write_text("not a document")
    assert read_text(plain).documents == ("one two three.", "four five six.", "seven eight nine.")
    assert read_text(lines).documents == read_text(folder).documents == DOCUMENTS
    assert read_text(lines).digest != read_text(plain).digest
    assert read_text(lines, start=0.5).documents == DOCUMENTS[1:]
    assert read_text(lines).sentences == read_text(plain).sentences


def test_a_json_line_ends_at_a_newline_alone(tmp_path: Path) -> None:
    text = "one\u2028two\u2029three\u0085four"
    line = json.dumps({"text": text}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"\n{line}\r\n\n{line}\n", encoding="utf-8", newline="")
    assert read_text(tmp_path / "a.jsonl").documents == (text, text)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", '{"text": "x"}\n{"txt": "y"}\n', "line 2: expected a string 'text'"),
        ("a.jsonl", "[1]\n", "line 1: expected an object, got list"),
        ("a.txt", " \n", "is empty"),
        ("a.txt", None, "is not readable"),
        ("", None, "is empty"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(EvalError, match=words):
        read_text(tmp_path / name)


def test_contexts_begin_with_bos_and_are_full(loaded_dense: Loaded) -> None:
    text = read_text(None)
    contexts = pack(text, loaded_dense.tokenizer, loaded_dense.bos, 40, 6)
    assert contexts.ids.shape == (6, 40)
    assert (contexts.ids[:, 0] == loaded_dense.tokenizer.bos_token_id).all()
    joined = loaded_dense.tokenizer.decode(contexts.ids[:, 1:].flatten())
    assert "\n\n".join(text.documents).startswith(joined)
    assert contexts.text_bytes is not None and int(contexts.text_bytes.sum()) == len(joined.encode())


def test_bytes_of_characters_that_are_several_tokens(loaded_dense: Loaded) -> None:
    text = TextSource(("naïve \N{SNOWMAN}\N{GRINNING FACE} straße 多言語 " * 8,), "test")
    contexts = pack(text, loaded_dense.tokenizer, [], 50, 4)
    assert contexts.text_bytes is not None
    decoded = loaded_dense.tokenizer.decode(contexts.ids.flatten(), errors="ignore")
    assert abs(int(contexts.text_bytes.sum()) - len(decoded.encode())) <= 3


def test_contexts_from_the_start_are_one_per_long_document(loaded_dense: Loaded) -> None:
    words = "the cat had a red hat and wanted to sing. "
    text = TextSource((words * 9, words, words * 7, words * 8), "test")
    contexts = pack(text, loaded_dense.tokenizer, loaded_dense.bos, 30, 8, from_start=True)
    assert contexts.documents == [0, 2, 3]
    assert (contexts.ids[0] == contexts.ids[1]).all()
    with pytest.raises(EvalError, match="two contexts of 500 that begin with a document"):
        pack(text, loaded_dense.tokenizer, loaded_dense.bos, 500, 8, from_start=True)


def test_overlapping_contexts_move_by_a_step(loaded_dense: Loaded) -> None:
    whole = pack(read_text(None), loaded_dense.tokenizer, [], 60, 2).ids.flatten()
    contexts = pack(read_text(None), loaded_dense.tokenizer, [], 20, 5, step=7)
    for number, row in enumerate(contexts.ids):
        assert (row == whole[7 * number : 7 * number + 20]).all()


def test_contexts_of_one_document_are_not_independent(loaded_dense: Loaded) -> None:
    texts = [f"the {word} went home and saw a {word}. " * 12 for word in ("cat", "big red house", "zzyzx")]
    contexts = pack(TextSource(tuple(texts), "test"), loaded_dense.tokenizer, [], 16, 99)
    count = len(contexts.documents)
    assert sorted(set(contexts.documents)) == [0, 1, 2] and count > 9
    values = [float(document) for document in contexts.documents]
    samples = contexts.samples(values)
    assert len(samples) == 3 and sum(samples) / 3 == pytest.approx(sum(values) / count)
    assert contexts.counted(15) == f"documents, {count} contexts of 15 tokens"
    assert contexts.warnings("a") == []
    single = pack(TextSource((texts[0],), "test"), loaded_dense.tokenizer, [], 16, 3)
    assert single.samples([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert "one document" in single.warnings("a")[0]


def test_a_text_that_is_too_short_is_refused(loaded_dense: Loaded) -> None:
    with pytest.raises(EvalError, match="less than two contexts"):
        pack(read_text(None), loaded_dense.tokenizer, loaded_dense.bos, 500_000, 2)
