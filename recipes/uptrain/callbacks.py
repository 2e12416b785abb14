"""What happens between the steps of a training: lines of progress, and stopping when the user asks."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from eval.parallel import Peers
from eval.progress import Reporter, Tick
from recipes.schema import UptrainPart
from recipes.uptrain.pace import Pace
from recipes.uptrain.tensorboard import require_tensorboard


class ShowProgress(TrainerCallback):
    """A line of losses, speed and time left for every entry of the log.

    The pace is that of the stage under way, since this run began it; the steps of later stages count by their
    tokens.
    """

    def __init__(self, reporter: Reporter, tick: Tick, part: UptrainPart):
        """Show progress.

        Args:
            reporter: Where lines go.
            tick: Advances the bar.
            part: The recipe's training.
        """
        self.reporter, self.tick = reporter, tick
        self._pace = Pace(part.stages)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, and count what an earlier run has done."""
        self._pace.begin(state.global_step, state.num_input_tokens_seen, time.monotonic())
        self.tick(state.global_step)
        if state.global_step:
            self.reporter.line(f"uptrain: resumed after step {state.global_step}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Advance the bar."""
        self.tick(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the losses of the last steps."""
        logs = kwargs.get("logs") or {}
        if "kl" not in logs:
            return
        step = state.global_step
        speed, left_s = self._pace.at(step, state.num_input_tokens_seen, time.monotonic())
        self.reporter.line(
            f"uptrain: step {step}/{state.max_steps}  KL {logs['kl']:.4f}  CE {logs['ce']:.4f}  "
            f"attention {logs['attention']:.4f}  {speed:,.0f} tokens/s  {left_s:.0f} s left"
        )


def log_to_tensorboard(folder: Path) -> TensorBoardCallback:
    """Write every entry of the log to files of TensorBoard.

    Args:
        folder: Where they go.

    Raises:
        RecipeError: the package is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder)))


class _Stop(TrainerCallback):
    """Saves a checkpoint and stops at the end of the step in which the user asked for it."""

    def __init__(self, peers: Peers):
        self.peers, self.requested = peers, False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Processes may hear it in different steps; one that stopped alone would leave the others waiting.
        self.requested = any(self.peers.gather(self.requested))
        if self.requested:
            control.should_save = control.should_training_stop = True


@contextmanager
def stop_on_sigint(trainer: Trainer, peers: Peers) -> Iterator[_Stop]:
    """Let the first SIGINT end the training after its step; a second one ends it at once.

    A launcher passes on the SIGINT that its processes have had already, and kills them half a minute later:
    among several, the second one is not heard.

    Args:
        trainer: The training.
        peers: The processes that train together; all stop after the same step.

    Yields:
        Whose ``requested`` says whether there was one.
    """
    stop = _Stop(peers)
    trainer.add_callback(stop)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.requested = True
        if peers.size == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:
        # Only the main thread may set handlers; elsewhere SIGINT is not ours to catch.
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
