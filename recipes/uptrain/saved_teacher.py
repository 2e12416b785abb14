"""A teacher whose most likely tokens were written down before the training."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from recipes.errors import RecipeError
from recipes.uptrain.distillation import SCORES, Predictions, TopTokens, top_tokens
from recipes.uptrain.passes import Reading, model_inputs

FORMAT = 1
SHARD_ROWS = 64
"""Rows in a file; what a killed run has to ask for again at most."""


class _Asked(Protocol):
    def teach(self, batch: dict[str, Tensor]) -> Reading: ...


class Lessons:
    """What a teacher says to rows of text, on disk, found by the rows' content."""

    def __init__(self, folder: Path, settings: dict[str, Any], process: int = 0):
        """Open, or begin.

        Args:
            folder: Holds a folder for every combination of settings.
            settings: All that the lessons depend on beside the rows, as JSON.
            process: Number of this process. Each writes files of its own, for several may be asked about the
                same rows at the same time.
        """
        said = json.dumps(settings | {"format": FORMAT}, sort_keys=True, indent=2)
        self.folder = folder / hashlib.sha256(said.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        if process == 0:
            (self.folder / "settings.json").write_text(said + "\n", encoding="utf-8")
        self._process = process
        self._opened: set[Path] = set()
        self._files: dict[str, Any] = {}
        self.refresh()

    def refresh(self) -> None:
        """Find what other processes have written since."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._opened):
            self._open(path)

    def __contains__(self, row: str) -> bool:
        return row in self._files

    def read(self, row: str) -> tuple[Tensor, Tensor]:
        """``[T, k]`` tokens and ``[T, k + 1]`` log-probabilities of a row.

        Raises:
            RecipeError: there is none of this row.
        """
        if row not in self._files:
            raise RecipeError(
                f"the saved teacher in {self.folder} was not asked about a row of this training"
            )
        file = self._files[row]
        return file.get_tensor(f"{row}.index"), file.get_tensor(f"{row}.logprobs")

    def write(self, lessons: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Write some rows as one file, all at once."""
        tensors = {f"{row}.index": index.contiguous() for row, (index, _) in lessons.items()}
        tensors |= {f"{row}.logprobs": logprobs.contiguous() for row, (_, logprobs) in lessons.items()}
        path = self.folder / f"{next(iter(lessons))}-{self._process}.safetensors"
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)
        self._open(path)

    def _open(self, path: Path) -> None:
        file = safe_open(path, framework="pt")
        self._files |= {name.partition(".")[0]: file for name in file.keys()}  # noqa: SIM118 - no dict
        self._opened.add(path)


class RememberedTeacher:
    """Says what was written down."""

    def __init__(self, lessons: Lessons):
        """Read lessons.

        Args:
            lessons: Of every row that will be asked about.
        """
        self.lessons = lessons

    def teach(self, batch: dict[str, Tensor]) -> Reading:
        """What the source said to a batch of rows."""
        found = [self.lessons.read(row) for row in row_names(batch)]
        index, logprobs = (
            torch.stack(parts).to(batch["labels"].device) for parts in zip(*found, strict=True)
        )
        return Reading(TopTokens(index, logprobs))


def save_lessons(
    lessons: Lessons,
    load: Callable[[], _Asked],
    batches: Iterable[dict[str, Tensor]],
    device: torch.device,
    top_k: int,
    temperature: float,
    done: Callable[[int], None],
) -> None:
    """Ask a teacher about rows and write down what it says; what it was asked before is passed over.

    Args:
        lessons: Where to.
        load: Gives the teacher; not called if nothing is left to ask.
        batches: Of the training, rows ``[B, T]``.
        device: Where the teacher computes.
        top_k: How many tokens to keep.
        temperature: Of the loss.
        done: Called with 1 after every batch.

    Holds: goes on after a kill, gives the losses of the live teacher (tests/recipes/test_saved_teacher.py).
    """
    teacher: _Asked | None = None
    held: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        names = row_names(batch)
        new = {name: row for row, name in enumerate(names) if name not in lessons and name not in held}
        if new:
            teacher = teacher or load()
            rows = list(new.values())
            said = teacher.teach({name: value[rows].to(device) for name, value in batch.items()}).predictions
            assert isinstance(said, Predictions)
            held |= zip(new, _best(said, top_k, temperature), strict=True)
        if len(held) >= SHARD_ROWS:
            lessons.write(held)
            held = {}
        done(1)
    if held:
        lessons.write(held)


def row_names(batch: dict[str, Tensor]) -> list[str]:
    """A digest of every row of a batch, of all that a model reads of it."""
    inputs = [value.cpu().to(torch.int64) for _, value in sorted(model_inputs(batch).items())]
    rows = zip(*inputs, strict=True)
    return [
        hashlib.blake2b(b"".join(part.numpy().tobytes() for part in row), digest_size=16).hexdigest()
        for row in rows
    ]


@torch.no_grad()
def _best(said: Predictions, top_k: int, temperature: float) -> list[tuple[Tensor, Tensor]]:
    """Tokens ``[T, k]`` int32 and log-probabilities ``[T, k + 1]`` float16 of every row."""
    kept = []
    size = max(1, SCORES // said.vocabulary)
    for row in said.states:
        parts = [top_tokens(said.logits(piece) / temperature, top_k) for piece in row.split(size)]
        index, logprobs = (torch.cat(each) for each in zip(*parts, strict=True))
        # Nothing is less likely than half precision can say.
        least = torch.finfo(torch.float16).min
        kept.append((index.int().cpu(), logprobs.clamp(min=least).half().cpu()))
    return kept
