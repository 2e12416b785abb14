"""Progress counts real tokens and knows the stages; logs go to TensorBoard when asked."""

import sys

import pytest
from pydantic import ValidationError

from recipes.errors import RecipeError
from recipes.schema import Stage, UptrainPart
from recipes.uptrain.batches import stage_at
from recipes.uptrain.callbacks import log_to_tensorboard
from recipes.uptrain.pace import Pace

SHORT, LONG = Stage(length=100, steps=10, batch_size=8), Stage(length=1000, steps=5, batch_size=2)


def recipe(**changes) -> UptrainPart:
    return UptrainPart.model_validate({"data": {"kind": "tiny"}} | changes)


def test_one_length_is_one_stage():
    part = recipe(steps=7, length=64, batch_size=3, accumulate=2)
    assert part.stages == (Stage(length=64, steps=7, batch_size=3),)
    assert part.row_tokens == 7 * 3 * 2 * 64


def test_stages_say_the_steps_and_may_have_their_own_batches():
    stages = [{"length": 64, "steps": 7, "batch_size": 8}, {"length": 512, "steps": 3}]
    part = recipe(length=stages, batch_size=2)
    assert part.steps == 10 and [stage.batch_size for stage in part.stages] == [8, 2]
    assert part.row_tokens == 7 * 8 * 64 + 3 * 2 * 512
    assert UptrainPart.model_validate_json(part.model_dump_json()) == part
    found = [stage_at(part.stages, step).length for step in (0, 6, 7, 9, 10)]
    assert found == [64, 64, 512, 512, 512]


@pytest.mark.parametrize(
    "changes,said",
    [
        (
            {"length": [{"length": 64, "steps": 7}], "steps": 9},
            "steps=9 and stages of 7 steps; leave steps out",
        ),
        ({"length": [{"length": 64}]}, "length.list"),
        ({"length": []}, "at least 1"),
        ({"length": 64}, "steps"),
    ],
)
def test_stages_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValidationError) as caught:
        recipe(**changes)
    assert said in str(caught.value)


def test_time_left_counts_later_stages_by_their_tokens():
    pace = Pace((SHORT, LONG))
    pace.begin(0, 0, 50.0)
    # 800 tokens a step in rows, of which 700 are real, at 2 s a step; 5 x 2000 tokens come after.
    speed, left_s = pace.at(5, 3500, 60.0)
    assert speed == pytest.approx(350)
    assert left_s == pytest.approx(5 * 2 + 5 * 2000 / 800 * 2)


def test_the_pace_of_a_stage_is_its_own_and_a_resumed_run_has_its_own_clock():
    pace = Pace((SHORT, LONG))
    pace.begin(6, 4200, 0.0)
    assert pace.at(10, 7000, 8.0) == pytest.approx((350, 5 * 2000 / 800 * 2))
    assert pace.at(12, 10600, 28.0) == pytest.approx((180, 3 * 10))
    assert pace.at(15, 16000, 58.0) == pytest.approx((180, 0))


def test_tensorboard_that_is_not_installed_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(RecipeError, match=r"pip install headroom\[tensorboard\]"):
        log_to_tensorboard(tmp_path)


def test_tensorboard_gets_what_is_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import TrainerControl, TrainerState, TrainingArguments

    callback = log_to_tensorboard(tmp_path / "log")
    arguments, state = TrainingArguments(str(tmp_path)), TrainerState(global_step=3)
    state.is_world_process_zero = True
    callback.on_log(arguments, state, TrainerControl(), logs={"kl": 0.5, "heldout_kl": 0.25})
    callback.on_train_end(arguments, state, TrainerControl())
    events = EventAccumulator(str(tmp_path / "log")).Reload()
    scalars = {name: events.Scalars(name)[0] for name in events.Tags()["scalars"]}
    assert {(one.step, one.value) for one in scalars.values()} == {(3, 0.5), (3, 0.25)}
