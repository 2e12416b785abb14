"""What a measure is: a name, one sentence that says how, and a function from ``Ask`` to an outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from eval.checkpoint import Loaded
from eval.journal import Journal
from eval.parallel import Peers
from eval.progress import Tick
from eval.results import Outcome
from eval.text import TextSource


@dataclass(frozen=True)
class Ask:
    """What a measure is given.

    Attributes:
        subject: The checkpoint to measure, loaded.
        baseline: The first checkpoint, loaded, while another one is measured; None for the baseline itself
            and for measures that do not need it.
        section: The measure's section of the suite.
        text: Where text and haystacks come from.
        batch_size: Sequences at a time; None lets the measure choose.
        tick: Called with the amount of work done, in the units of ``Measure.work``.
        journal: Keeps parts of the measurement that take long, so that they are not made twice.
        peers: The processes launched together; only for measures that are ``split``.
    """

    subject: Loaded
    baseline: Loaded | None
    section: Any
    text: TextSource
    seed: int
    batch_size: int | None
    tick: Tick
    journal: Journal = field(default_factory=Journal)
    peers: Peers = field(default_factory=Peers)


@dataclass(frozen=True)
class Measure:
    """One way to look at a checkpoint; it is registered in ``eval/measures/__init__.py``.

    Attributes:
        name: The suite's section, kebab-case or one word.
        how: One sentence for the report: what is counted and where the standard error comes from.
        check: Raises EvalError where a checkpoint cannot be measured so; runs before any model is loaded.
        work: Amount of work of a section, for the progress bar.
        keys: Patterns of the keys of its metrics, as ``fnmatch`` has them; a gate is checked against them
            before anything is measured.
        uses_baseline: The outcome depends on the baseline too.
        compares_only: There is nothing to measure on the baseline itself.
        uses_text: The outcome depends on the text.
        timed: The outcome depends on the machine and its threads.
        split: Every process launched together runs its share, and the main one returns the whole; otherwise
            the main process measures alone.
        inputs: Of a section, what the outcome depends on besides the section's own values, such as digests of
            files; replaces values of the section by the same names.
        loads: Whether a section needs the weights in memory.
    """

    name: str
    how: str
    run: Callable[[Ask], Outcome]
    check: Callable[[Any, Any], None]
    work: Callable[[Any], int]
    keys: tuple[str, ...]
    uses_baseline: bool = False
    compares_only: bool = False
    uses_text: bool = True
    timed: bool = False
    split: bool = False
    inputs: Callable[[Any], dict[str, Any]] = lambda section: {}
    loads: Callable[[Any], bool] = lambda section: True
