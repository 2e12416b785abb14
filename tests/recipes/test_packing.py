"""Rows keep documents whole, lose no token, and in ``apart`` say of each what it says alone."""

from itertools import islice

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    Qwen2Config,
)

import patches
from convert import Request, convert
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.uptrain.batches import PackedBatches
from recipes.uptrain.distillation import Predictions, distillation_losses
from recipes.uptrain.mixtures import Listed
from recipes.uptrain.packing import IGNORED, Packer, check_apart
from recipes.uptrain.passes import model_inputs
from tests.recipes.training import training_part

CHECKPOINT = SHIPPED / "tiny" / "checkpoint"
TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
TEXTS = ["one day tom went to the park.", "tom saw a red bird. " * 6, "lily ran.", "the dog was happy. " * 3]
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def rows_of(texts, length, apart=False):
    """All of some texts, the last row padded."""
    packer, documents, rows = Packer(TOKENIZER, apart), iter(texts), []
    while True:
        try:
            rows.append(packer.row(documents, length))
        except StopIteration:
            begun = packer.state()["pieces"]
            if begun:
                # What fills a row alone does not fit in the one that was begun, and ends it.
                packer.load_state({"pieces": begun, "waiting": [[0] * (length - 1)]})
                rows.append(packer.row(documents, length))
            return rows


def encoded(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"] + [TOKENIZER.eos_token_id]


def test_joined_rows_begin_with_bos_keep_documents_whole_and_lose_no_token():
    size = len(encoded(TEXTS[0]))
    rows = rows_of([TEXTS[0]] * 7, 1 + 2 * size + 3)
    assert len(rows) == 4
    counted = [row["labels"][row["labels"] != IGNORED].tolist() for row in rows]
    assert all(tokens[0] == TOKENIZER.bos_token_id for tokens in counted)
    assert [len(tokens) for tokens in counted] == [1 + 2 * size] * 3 + [1 + size]
    for row in rows:
        assert row["attention_mask"].sum() == (row["labels"] != IGNORED).sum()
        assert set(row["attention_mask"].diff().tolist()) <= {0, -1}


@pytest.mark.parametrize("apart", [True, False])
def test_a_document_longer_than_a_row_goes_on_in_the_next(apart):
    text = " ".join(["tom saw a red bird."] * 40)
    rows = rows_of([text], 50, apart)
    tokens = [row["input_ids"][row["attention_mask"].bool()] for row in rows]
    assert all(row[0] == TOKENIZER.bos_token_id for row in tokens)
    assert [token for row in tokens for token in row[1:].tolist()] == encoded(text)


def test_rows_apart_restart_positions_with_every_document_and_with_the_padding():
    length = 3 + sum(len(encoded(text)) for text in TEXTS[:3]) + 4
    (row,) = rows_of(TEXTS[:3], length, apart=True)
    sizes = [1 + len(encoded(text)) for text in TEXTS[:3]] + [4]
    wanted = [place for size in sizes for place in range(size)]
    assert row["position_ids"].tolist() == wanted
    assert row["attention_mask"].tolist() == [1] * (length - 4) + [0] * 4
    begins = [place for place, position in enumerate(wanted) if position == 0]
    assert all(row["labels"][begin] == IGNORED for begin in begins)
    assert (row["labels"] == IGNORED).sum() == 3 + 4


def test_a_packer_goes_on_from_its_state_and_through_rows_of_other_lengths():
    texts, lengths = TEXTS * 9, [90, 90, 40, 40, 130, 60]
    packer, documents = Packer(TOKENIZER, True), iter(texts)
    rows, states, left = [], [], []
    for length in lengths:
        rows.append(packer.row(documents, length))
        states.append(packer.state())
        left.append(list(documents))
        documents = iter(left[-1])
    assert [row["input_ids"].shape[0] for row in rows] == lengths
    tokens = [row["input_ids"][row["attention_mask"].bool()].tolist() for row in rows]
    joined = [token for row in tokens for token in row if token != TOKENIZER.bos_token_id]
    assert joined == [token for text in texts for token in encoded(text)][: len(joined)]
    again = Packer(TOKENIZER, True)
    again.load_state(states[2])
    assert torch.equal(again.row(iter(left[2]), lengths[3])["input_ids"], rows[3]["input_ids"])


def test_a_state_is_kept_for_each_of_the_last_steps(monkeypatch):
    made = []
    state = Packer.state
    monkeypatch.setattr(Packer, "state", lambda packer: made.append(1) or state(packer))
    part = training_part(length=32, steps=9, accumulate=5)
    batches = PackedBatches(part, [Listed(TEXTS)], TOKENIZER, processes=3)
    rows = list(islice(batches, 6 * 5))
    assert len(made) == 7
    # A loader may have read ahead by three steps.
    for step in (3, 6):
        again = PackedBatches(part, [Listed(TEXTS)], TOKENIZER, processes=3)
        again.load_state(step, batches.state_after(step))
        wanted = rows[step * 5] if step < 6 else next(iter(batches))
        assert torch.equal(next(iter(again))["input_ids"], wanted["input_ids"])


def alone(model, text):
    with torch.no_grad():
        return model(torch.tensor([[TOKENIZER.bos_token_id, *encoded(text)]]), use_cache=False).logits[0]


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windowed") / "model"
    convert(Request(str(CHECKPOINT), folder, kv_heads=2, window=8, sinks=2, global_layers="2"))
    return patches.load(folder, dtype=torch.float32)[0]


def teacher(implementation):
    return AutoModelForCausalLM.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation=implementation
    ).eval()


@pytest.mark.parametrize("which", ["teacher-sdpa", "teacher-eager", "windowed"])
def test_a_packed_row_gives_the_logits_of_its_documents_alone(windowed, which):
    model = windowed if which == "windowed" else teacher(which.partition("-")[2])
    rows = rows_of(TEXTS, 60, apart=True)
    batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    with torch.no_grad():
        logits = model(**model_inputs(batch), use_cache=False).logits
    got = logits[batch["attention_mask"].bool()]
    wanted = torch.cat([alone(model, text) for text in TEXTS])
    assert len(rows) == 2
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=1e-4)


def test_losses_of_a_packed_row_are_those_of_its_documents(windowed):
    def losses(rows):
        batch = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        with torch.no_grad():
            ours, theirs = (
                model(**model_inputs(batch), use_cache=False).logits for model in (windowed, teacher("sdpa"))
            )
        known = [Predictions.of_logits(logits) for logits in (ours, theirs)]
        return torch.stack(distillation_losses(*known, batch["labels"]))

    packed = losses(rows_of(TEXTS, 150, apart=True))
    counts = torch.tensor([len(encoded(text)) for text in TEXTS])
    single = torch.stack([losses(rows_of([text], 150, apart=True)) for text in TEXTS])
    torch.testing.assert_close(packed, (single * counts[:, None]).sum(0) / counts.sum(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SMALL), Qwen2Config(**SMALL, num_key_value_heads=2), GPTNeoXConfig(**SMALL)],
    ids=lambda config: config.model_type,
)
def test_models_that_keep_documents_apart_are_let_through(config):
    model = AutoModelForCausalLM.from_config(config).train()
    check_apart(model, torch.device("cpu"))
    assert model.training


def test_a_model_that_does_not_is_refused():
    config = OPTConfig(
        vocab_size=64,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
    )
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    with pytest.raises(RecipeError, match="OPTForCausalLM does not keep documents apart"):
        check_apart(model, torch.device("cpu"))
