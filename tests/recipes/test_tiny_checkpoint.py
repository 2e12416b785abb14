"""The committed checkpoint keeps what its README promises: it loads, knows its language, finds needles."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import recipes.tiny
from recipes.tiny.curriculum import STAGES, batches
from recipes.tiny.measure import perplexity, rows, unigram_perplexity
from recipes.tiny.needles import needle_rate
from recipes.tiny.text import document, documents, join, paragraphs
from recipes.tiny.windows import window_mask

HERE = Path(recipes.tiny.__file__).parent
CHECKPOINT = HERE / "checkpoint"
MEASURED = json.loads((HERE / "measured.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def heldout(tokenizer):
    return rows(tokenizer, (HERE / "heldout.txt").read_text(encoding="utf-8"), 512)


def test_small_and_mha():
    config = json.loads((CHECKPOINT / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "llama"
    assert config["num_attention_heads"] == config["num_key_value_heads"] == 8
    assert config["num_hidden_layers"] >= 4
    assert config["max_position_embeddings"] >= 2048
    assert all(path.stat().st_size < 4_000_000 for path in CHECKPOINT.iterdir())


def test_parameters(model):
    assert model.num_parameters() <= 2_000_000


@pytest.mark.parametrize("text", ["90817", "a fox, 12 owls.", "line one\n\nline two", "naïve — 漢字"])
def test_tokenizer_round_trips_and_begins_with_bos(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == text


def test_every_digit_is_one_token(tokenizer):
    ids = tokenizer.encode("4051987236", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == list("4051987236")


def test_same_seed_same_text(tokenizer):
    assert paragraphs(5, 20) == paragraphs(5, 20)
    assert paragraphs(5, 20) != paragraphs(6, 20)
    assert list(documents(3, 5, 256, 0.5, tokenizer)) == list(documents(3, 5, 256, 0.5, tokenizer))


def test_documents_fit_and_answer_what_they_ask(tokenizer):
    for text in documents(seed=8, count=30, tokens=256, needle_share=1.0, tokenizer=tokenizer):
        assert 200 < len(tokenizer.encode(text)) <= 256
        key = text.rsplit("magic number for ", 1)[1].split(" is:")[0]
        value = text.rsplit(" ", 1)[1].rstrip(".")
        assert f"one of the special magic numbers for {key} is: {value}." in text


def test_no_needles_where_none_were_asked_for(tokenizer):
    assert not any("magic" in text for text in documents(1, 10, 200, 0.0, tokenizer))


def test_depth_places_the_needle(tokenizer):
    first, last = (join(document(random.Random(1), tokenizer, 300, 1, depth=depth)) for depth in (0.0, 1.0))
    assert first.startswith("one of the special magic numbers")
    assert last.rsplit("what is the special", 1)[0].rstrip()[-6:-1].isdigit()


def test_a_document_that_cannot_fit_is_refused(tokenizer):
    with pytest.raises(ValueError, match="tokens=40 is too short for 3 needles"):
        document(random.Random(0), tokenizer, 40, 3)


def test_training_rows_begin_with_bos_and_never_score_it(tokenizer):
    for stage in STAGES:
        ids, weights = next(batches(1, stage, tokenizer))
        assert (ids[:, 0] == tokenizer.bos_token_id).all()
        assert (weights[:, 0] == 0).all()
        assert (weights.sum(-1) > 0).all()


def test_window_mask_is_the_rule_of_the_design():
    mask = window_mask(40, window=8, sinks=3)[0, 0] == 0
    for i in range(40):
        for j in range(40):
            assert mask[i, j] == (j <= i and (i - j < 8 or j < 3))


def test_knows_the_language(model, tokenizer, heldout):
    part = heldout[:24]
    reached = perplexity(model, part)
    assert reached < 1.1 * MEASURED["heldout_perplexity"]
    assert 10 * reached < unigram_perplexity(tokenizer, paragraphs(1, 300), part)


def test_finds_needles_at_its_full_length(model, tokenizer):
    assert needle_rate(model, tokenizer, tokens=512, count=20, seed=12) >= 0.9


def test_greedy_generation_gives_the_value(model, tokenizer):
    pieces = document(random.Random(4), tokenizer, 256, 1, depth=0.3)
    prompt = tokenizer(join(pieces[:-1]), return_tensors="pt")
    output = model.generate(**prompt, max_new_tokens=7, do_sample=False)
    assert tokenizer.decode(output[0, prompt.input_ids.shape[1] :]) == pieces[-1].text


def test_text_command_writes_jsonl_and_refuses_in_one_line(tmp_path):
    command = [sys.executable, "-m", "recipes.tiny.text", "--format", "jsonl", "--paragraphs", "3"]
    output = tmp_path / "documents.jsonl"
    subprocess.run([*command, "--output", str(output)], check=True, capture_output=True)
    assert [list(json.loads(line)) for line in output.read_text(encoding="utf-8").splitlines()] == [
        ["text"]
    ] * 3
    refused = subprocess.run(
        [*command, "--output", str(output), "--tokenizer", str(tmp_path)], capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
