"""Rows that are never trained on: measured between the steps, and what stops a training early."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from eval.progress import Reporter
from recipes.errors import RecipeError
from recipes.schema import HeldoutPart, UptrainPart
from recipes.uptrain.batches import new_mixture, new_packer
from recipes.uptrain.mixtures import Source
from recipes.uptrain.packing import Row
from recipes.uptrain.trainer import DistillationTrainer

PREFIX = "heldout_"


def set_aside(
    part: UptrainPart, sources: Sequence[Source], tokenizer: Any
) -> tuple[list[Row], Sequence[Source]]:
    """Rows of the first documents, drawn as the training draws them, and the sources without these documents.

    Args:
        part: The recipe's training.
        sources: Of its data.
        tokenizer: The student's.

    Returns:
        Rows of the longest stage's length, none where nothing is held out; and what is left to train on.

    Raises:
        RecipeError: the text is shorter than the rows.
    """
    if part.heldout is None:
        return [], sources
    plain = [cast(Source, replace(cast(Any, source), seed=None)) for source in sources]
    documents, packer = new_mixture(part, plain), new_packer(part, tokenizer)
    length = max(stage.length for stage in part.stages)
    rows = [packer.row(documents, length) for _ in range(part.heldout.rows)]
    places = documents.state()["places"]
    if any(epoch for epoch, _ in places):
        raise RecipeError(
            f"heldout.rows={part.heldout.rows}: the training data end before so many rows of {length} tokens"
        )
    left = [
        cast(Source, replace(cast(Any, source), reserved=read))
        for source, (_, read) in zip(sources, places, strict=True)
    ]
    return rows, left


class MeasureHeldout(TrainerCallback):
    """Measures held-out rows before the first step, every so many steps and after the last one.

    Holds: what is decided follows from the log alone, so that a resumed training decides the same
    (tests/recipes/test_heldout.py).
    """

    def __init__(
        self, part: UptrainPart, rows: Sequence[Row], trainer: DistillationTrainer, reporter: Reporter
    ):
        """Measure.

        Args:
            part: The recipe's training, with ``heldout``.
            rows: To measure.
            trainer: Gives the losses.
            reporter: Where lines go.
        """
        assert part.heldout is not None
        self.how: HeldoutPart = part.heldout
        self.judged = PREFIX + ("kl" if part.kl_weight else "ce")
        self.rows, self.trainer, self.reporter = rows, trainer, reporter
        # Only now: the Trainer's own check wants an evaluation of its own beside it.
        trainer.args.load_best_model_at_end = self.how.keep_best

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what was converted."""
        if state.global_step == 0:
            self._measure()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure; keep the best, stop where the gate is passed or nothing gets better."""
        step = state.global_step
        if step % self.how.every and step != state.max_steps:
            return
        self._measure()
        measured = self.measured(state)
        if self.how.keep_best and min(measured, key=lambda entry: entry[self.judged])["step"] == step:
            # The Trainer keeps the checkpoint of this step, and ends with it.
            state.best_global_step, state.best_metric = step, measured[-1][self.judged]
            control.should_save = True
        reason = self.reason(state)
        if reason is not None and step < state.max_steps:
            self.reporter.line(f"uptrain: stops after step {step}: {reason}")
            control.should_save = control.should_training_stop = True

    def measured(self, state: TrainerState) -> list[dict[str, float]]:
        """The measurements after a step, in their order."""
        return [entry for entry in state.log_history if self.judged in entry and entry["step"]]

    def reason(self, state: TrainerState) -> str | None:
        """Why the training is at its end; None when it is not.

        Args:
            state: Of a training under way, or of a checkpoint.
        """
        values = [entry[self.judged] for entry in self.measured(state)]
        if not values:
            return None
        gate, patience = self.how.stop_at_kl, self.how.patience
        if gate is not None and values[-1] <= gate:
            return f"held-out KL {values[-1]:.4f} is at most {gate}"
        since = len(values) - 1 - values.index(min(values))
        if patience is not None and since >= patience:
            name = self.judged.removeprefix(PREFIX).upper()
            return f"held-out {name} has not been below {min(values):.4f} for {since} measurements"
        return None

    def ended(self, state: TrainerState) -> bool:
        """Whether a checkpoint is one that the training stopped at."""
        measured = self.measured(state)
        return bool(measured) and measured[-1]["step"] == state.global_step and self.reason(state) is not None

    def _measure(self) -> None:
        losses = self.trainer.measure(self.rows)
        # To log is to have logged: the line of the training that is due at this step would not come.
        due = self.trainer.control.should_log
        self.trainer.log({PREFIX + name: losses[name] for name in ("kl", "ce")})
        self.trainer.control.should_log = due
        step = self.trainer.state.global_step
        self.reporter.line(f"uptrain: step {step}: held-out KL {losses['kl']:.4f}  CE {losses['ce']:.4f}")
