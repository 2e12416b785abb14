"""How fast a training is, and how long it will take."""

from collections.abc import Sequence

from recipes.schema import Stage


class Pace:
    """How fast a training is, and when it will be done.

    Holds: stages count by their tokens, and a resumed run by its own time (tests/recipes/test_progress.py).
    """

    def __init__(self, stages: Sequence[Stage]):
        """Of a training.

        Args:
            stages: With their batch sizes.
        """
        self.stages = stages
        self._step, self._tokens, self._time_s = 0, 0, 0.0
        self._last = (0, 0, 0.0)

    def begin(self, step: int, tokens: int, time_s: float) -> None:
        """Start the clock after ``step`` steps and ``tokens`` tokens."""
        self._step, self._tokens, self._time_s = self._last = step, tokens, time_s

    def at(self, step: int, tokens: int, time_s: float) -> tuple[float, float]:
        """Tokens per second since the stage or the run began, and seconds left.

        Args:
            step: Steps done, of which at least one since ``begin``.
            tokens: Tokens read, without padding.
            time_s: On the clock of ``begin``.
        """
        begun = self._stage_begin(step - 1)
        if self._step < begun <= self._last[0]:
            # The last line was written in this stage or at its beginning: from there on the pace is its own.
            self._step, self._tokens, self._time_s = self._last
        passed_s = max(time_s - self._time_s, 1e-9)
        self._last = step, tokens, time_s
        done = self._row_tokens(step) - self._row_tokens(self._step)
        left = self._row_tokens(sum(stage.steps for stage in self.stages)) - self._row_tokens(step)
        return (tokens - self._tokens) / passed_s, left * passed_s / done

    def _stage_begin(self, step: int) -> int:
        """The first step of the stage that ``step`` is of."""
        begin = 0
        for stage in self.stages:
            if step < begin + stage.steps:
                return begin
            begin += stage.steps
        return begin - self.stages[-1].steps

    def _row_tokens(self, step: int) -> int:
        """Tokens that fit into the rows of the first steps, of one pass of each."""
        total = 0
        for stage in self.stages:
            steps = min(stage.steps, step)
            total += steps * stage.batch_size * stage.length
            step -= steps
        return total
