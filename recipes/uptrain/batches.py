"""The batches of a whole training, stage by stage; an interrupted one goes on with the very next."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from recipes.schema import Stage, UptrainPart
from recipes.schema.data import sources_of
from recipes.uptrain.mixtures import Mixture, Source
from recipes.uptrain.packing import Packer, Row

State = dict[str, Any]
STATES = 4
"""Steps whose state is kept: the last one that was trained, and more than a loader reads ahead of it."""


class PackedBatches(IterableDataset[Row]):
    """Whole batches, because the stages of a curriculum differ in their rows; each is one element.

    Loaders read ahead. So the state is kept after each of the last steps, and the one that belongs to the
    steps that were trained is asked for by their number.
    """

    def __init__(
        self,
        part: UptrainPart,
        sources: Sequence[Source],
        tokenizer: PreTrainedTokenizerBase,
        processes: int = 1,
        process: int = 0,
    ):
        """Begin.

        Args:
            part: The recipe's training.
            sources: Of its data, in its order.
            tokenizer: The student's.
            processes: That share the batches; each packs all of them and keeps its own.
            process: Number of this one.
        """
        self._documents = new_mixture(part, sources)
        self._packer = new_packer(part, tokenizer)
        self._per_step = part.accumulate
        self._processes, self._process = processes, process
        self._stages = part.stages
        self._kept: deque[tuple[int, State]] = deque(maxlen=STATES)
        self._number = 0
        self._keep()

    def __iter__(self) -> Iterator[Row]:
        while True:
            stage = stage_at(self._stages, self._number // self._per_step)
            size = stage.batch_size
            rows = [self._packer.row(self._documents, stage.length) for _ in range(self._processes * size)]
            self._number += 1
            if self._number % self._per_step == 0:
                self._keep()
            own = rows[self._process * size : (self._process + 1) * size]
            yield {name: torch.stack([row[name] for row in own]) for name in rows[0]}

    def state_after(self, steps: int) -> State:
        """What a later run needs to go on after so many optimizer steps, as JSON.

        Args:
            steps: The last ones that were trained.
        """
        return dict(self._kept)[steps]

    def load_state(self, steps: int, state: State) -> None:
        """Go on after so many steps."""
        self._number = steps * self._per_step
        self._documents.load_state(state["documents"])
        self._packer.load_state(state["packer"])
        self._kept.clear()
        self._keep()

    def _keep(self) -> None:
        state = {"documents": self._documents.state(), "packer": self._packer.state()}
        self._kept.append((self._number // self._per_step, state))


def new_mixture(part: UptrainPart, sources: Sequence[Source]) -> Mixture:
    """The documents of a training, from the first.

    Args:
        part: The recipe's training, for weights and seed.
        sources: Of its data, in its order.
    """
    return Mixture(sources, [source.weight for source in sources_of(part.data)], part.seed)


def new_packer(part: UptrainPart, tokenizer: PreTrainedTokenizerBase) -> Packer:
    """An empty packer, as a recipe wants rows packed."""
    return Packer(tokenizer, part.packing == "apart")


def own_rows(rows: Sequence[Row], process: int, processes: int) -> Sequence[Row]:
    """A process's part of rows that are measured.

    Each has as many, for sharded models answer together; where they cannot be dealt out evenly, each has all.
    """
    return rows if len(rows) % processes else rows[process::processes]


def stage_at(stages: Sequence[Stage], step: int) -> Stage:
    """The stage of the step after ``step`` steps; the last one when all are done."""
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    return stages[-1]
