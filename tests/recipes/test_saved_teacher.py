"""A teacher that was asked before the training: the same losses, and nothing asked twice."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from convert import Request, convert
from eval.errors import EvalError
from eval.progress import Reporter
from eval.strict import parse_strict
from recipes.errors import RecipeError
from recipes.loading import SHIPPED
from recipes.schema import UptrainPart
from recipes.uptrain import saved_teacher
from recipes.uptrain.distillation import Predictions, distillation_losses
from recipes.uptrain.saved_teacher import Lessons, RememberedTeacher, row_names, save_lessons
from recipes.uptrain.separate_teacher import LoadedTeacher
from recipes.uptrain.training import train
from tests.recipes.training import training_part

CHECKPOINT = SHIPPED / "tiny" / "checkpoint"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source() -> LoadedTeacher:
    return LoadedTeacher(AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval())


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "gqa"
    convert(Request(str(CHECKPOINT), folder, kv_heads=2, window=16, sinks=2, global_layers="2"))
    return folder


def batches(count: int, rows: int = 2) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(3, 1280, (count, rows, 24), generator=generator)
    return [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in tokens]


class Counting:
    """A teacher that counts the rows it is asked about, and may be killed."""

    def __init__(self, teacher: LoadedTeacher, kill_after: int = 1000):
        self.teacher, self.asked, self.kill_after = teacher, 0, kill_after

    def teach(self, batch):
        if self.asked >= self.kill_after:
            raise KeyboardInterrupt
        self.asked += len(batch["input_ids"])
        return self.teacher.teach(batch)


def ask(lessons: Lessons, teacher: Counting, given, top_k: int = 8) -> None:
    save_lessons(lessons, lambda: teacher, given, CPU, top_k, 2.0, lambda _: None)


def test_saved_and_live_teachers_give_the_same_losses(tmp_path, source):
    given = batches(3)
    lessons = Lessons(tmp_path, {})
    ask(lessons, Counting(source), given)
    # Another batch of the same rows in another order: a row is known by its content.
    mixed = {name: torch.cat([given[2][name][1:], given[0][name][:1]]) for name in given[0]}
    logits = torch.randn(2, 24, 1280)
    saved, live = (
        distillation_losses(
            Predictions.of_logits(logits),
            teacher.teach(mixed).predictions,
            mixed["labels"],
            top_k=8,
            temperature=2.0,
        )
        for teacher in (RememberedTeacher(Lessons(tmp_path, {})), source)
    )
    assert saved[0].item() == pytest.approx(live[0].item(), rel=1e-3) and saved[1] == live[1]


def test_a_killed_run_asks_only_for_what_is_missing(tmp_path, source, monkeypatch):
    monkeypatch.setattr(saved_teacher, "SHARD_ROWS", 4)
    given = batches(5)
    killed = Counting(source, kill_after=6)
    with pytest.raises(KeyboardInterrupt):
        ask(Lessons(tmp_path, {}), killed, given)
    (next(tmp_path.iterdir()) / "half.partial").write_bytes(b"cut off")
    again = Counting(source)
    ask(Lessons(tmp_path, {}), again, given + given)
    # Of six rows, the last two were not yet on disk; what comes twice is asked once.
    assert (killed.asked, again.asked) == (6, 6)
    finished = Lessons(tmp_path, {})
    assert all(row in finished for batch in given for row in row_names(batch))
    nobody = Counting(source, kill_after=0)
    ask(finished, nobody, given)


def test_processes_asked_about_the_same_rows_write_no_file_of_each_other(tmp_path, source, monkeypatch):
    given, written = batches(1), []
    lessons = [Lessons(tmp_path, {}, process) for process in (0, 1)]

    def save_in_turns(tensors, path):
        written.append(path)
        save_file(tensors, path)
        if len(written) == 1:
            # The other process is asked, writes and is done while this one is still writing.
            ask(lessons[1], Counting(source), given)

    monkeypatch.setattr(saved_teacher, "save_file", save_in_turns)
    ask(lessons[0], Counting(source), given)
    assert len(set(written)) == 2 and len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not list(tmp_path.rglob("*.partial"))
    assert all(row in one for one in lessons for row in row_names(given[0]))


def test_every_file_is_opened_once(tmp_path, source, monkeypatch):
    opened = []

    def count(path, **options):
        opened.append(path)
        return safe_open(path, **options)

    monkeypatch.setattr(saved_teacher, "SHARD_ROWS", 2)
    monkeypatch.setattr(saved_teacher, "safe_open", count)
    lessons = Lessons(tmp_path, {})
    ask(lessons, Counting(source), batches(4))
    lessons.refresh()
    assert len(opened) == len(set(opened)) == 4


def test_other_settings_are_other_lessons_and_unknown_rows_are_said(tmp_path, source):
    given = batches(1)
    ask(Lessons(tmp_path, {"top_k": 8}), Counting(source), given)
    (row, _) = row_names(given[0])
    assert row in Lessons(tmp_path, {"top_k": 8}) and row not in Lessons(tmp_path, {"top_k": 9})
    with pytest.raises(RecipeError, match="was not asked about a row"):
        RememberedTeacher(Lessons(tmp_path, {"top_k": 8})).teach(batches(2)[1])


def test_training_reads_what_was_saved_as_if_it_were_said_live(student, tmp_path):
    logged = []
    for options in (
        {"teacher": {"kind": "saved", "top_k": 16}},
        {"kl_top_k": 16, "teacher": {"kind": "separate"}},
    ):
        part = training_part(attention_weight=0.0, ce_weight=0.1, temperature=1.5, **options)
        logged.append(train(part, CHECKPOINT, student, tmp_path / "training", False, Reporter(None))[1])
    saved, live = logged
    for name in ("kl_first", "ce_first", "kl_last", "ce_last"):
        assert saved[name] == pytest.approx(live[name], rel=2e-3, abs=2e-4) and saved[name] > 0
    stored = sum(path.stat().st_size for path in (tmp_path / "teacher").rglob("*.safetensors"))
    tokens = 4 * 2 * 64
    assert tokens * (16 * 6 + 2) <= stored <= tokens * (16 * 6 + 2) + 8 * 400


def test_a_top_k_of_the_whole_vocabulary_is_refused(student, tmp_path):
    part = training_part(attention_weight=0.0, teacher={"kind": "saved", "top_k": 1280})
    with pytest.raises(RecipeError, match="top_k=1280 must be below the vocabulary of 1280 tokens"):
        train(part, CHECKPOINT, student, tmp_path / "training", False, Reporter(None))


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"attention_weight": 1.0}, "attention_weight needs a teacher in memory"),
        ({"kl_weight": 0.0, "ce_weight": 1.0}, "nothing that is saved would be read"),
        ({"kl_top_k": 4}, "a saved one has teacher.top_k"),
    ],
)
def test_what_is_not_saved_cannot_be_learned(changes, message):
    given = {"data": {"kind": "tiny"}, "steps": 1, "teacher": {"kind": "saved"}} | changes
    with pytest.raises(EvalError, match=message):
        parse_strict(UptrainPart, given)
