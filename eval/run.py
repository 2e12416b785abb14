"""Measure checkpoints side by side and write what was found: the room's front door for Python."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.checkpoint import Checkpoint, Loaded, find_checkpoint, load, pick_device, pick_dtype
from eval.environment import environment
from eval.errors import EvalError
from eval.gate import Gate, check_gates, hold_gates, read_gates
from eval.journal import Journal
from eval.measures import MEASURES
from eval.measures.base import Ask, Measure
from eval.names import check_names
from eval.parallel import Peers, join_peers
from eval.progress import Reporter, duration
from eval.record import Outcomes, results_of
from eval.report.write import write_results
from eval.results import Outcome, Results
from eval.sections import Section
from eval.store import Store, measurement_key, prepare_folder
from eval.suite import Suite
from eval.text import TextSource, read_text

__all__ = ["EvalError", "evaluate"]


def evaluate(
    checkpoints: Sequence[tuple[str, str | Path]],
    suite: Suite,
    output: str | Path,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    command: str = "eval.run.evaluate",
    reporter: Reporter | None = None,
    gate: str | None = None,
    notes: Sequence[str] = (),
) -> Results:
    """Run a suite on checkpoints and write ``results.json``, ``report.md``, ``report.html`` and ``samples/``.

    What was measured before in the same ``output``, from the same weights, text and settings, is read back
    from ``output/measurements`` instead of being measured again. An evaluation that is stopped leaves a
    report of what it has, and says what is missing. Of processes launched together (``accelerate launch``),
    all run their share of the lm-eval tasks; the main one alone measures the rest and writes.

    Args:
        checkpoints: Names and folders; the first is the baseline.
        suite: What to measure (:func:`eval.suite.load_suite`).
        output: Folder for the results, made if absent.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``auto`` (the checkpoint's own, float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        batch_size: Sequences at a time; chosen by length when not given.
        command: Noted in the results, so that a reader can repeat them.
        reporter: Where progress goes; nowhere when not given.
        gate: Conditions that ``Results.gates`` tells of (:mod:`eval.gate`).
        notes: Sentences for the report about how the checkpoints came to be.

    Raises:
        EvalError: a checkpoint does not load or cannot be measured as asked, an unknown name, an unusable
        output.
    """
    check_names([name for name, _ in checkpoints])
    if not suite.sections():
        raise EvalError(f"suite {suite.name!r} measures nothing: give it one of {', '.join(MEASURES)}")
    gates = read_gates(gate) if gate else []
    check_gates(gates, [key for name in suite.sections() for key in MEASURES[name].keys])
    peers = join_peers(device)
    where = pick_device(device) if peers.accelerator is None else peers.accelerator.device
    text = read_text(suite.text, suite.text_start)
    folder = Path(output)
    found = peers.from_main(lambda: _prepare(checkpoints, suite, folder))
    reporter = reporter if reporter is not None and peers.main else Reporter(None)
    surroundings = environment(where, dtype)
    bench = _Bench(found, suite, text, where, surroundings, dtype, batch_size, Store(folder), reporter, peers)
    outcomes: Outcomes = {name: {} for name in suite.sections()}

    def results() -> Results:
        made = results_of(found, suite, text, outcomes, command, surroundings)
        return made.model_copy(update={"notes": list(notes)})

    try:
        for measure, name, outcome in bench.measure_all():
            outcomes[measure][name] = outcome
    except BaseException:
        if peers.main and (partial := results()).rows:
            write_results(partial, folder)
        raise
    return peers.from_main(lambda: finish(results(), gates, folder))


def _prepare(checkpoints: Sequence[tuple[str, str | Path]], suite: Suite, folder: Path) -> list[Checkpoint]:
    """Find the checkpoints, and refuse what cannot be measured or written before anything is loaded."""
    found = [find_checkpoint(name, path) for name, path in checkpoints]
    for checkpoint in found:
        for name, section in suite.sections().items():
            MEASURES[name].check(checkpoint, section)
    for place in (folder, folder / "measurements"):
        prepare_folder(place)
    return found


def finish(results: Results, gates: Sequence[Gate], folder: Path) -> Results:
    """Hold the gates and write everything; returns the results with what the gates said.

    Raises:
        EvalError: a gate names what was not measured; all else is written.
    """
    names = [checkpoint.name for checkpoint in results.checkpoints]
    try:
        if gates:
            held = hold_gates(gates, results.rows, names)
            results = results.model_copy(update={"gates": held})
    finally:
        write_results(results, folder)
    return results


class _Bench:
    """Loads checkpoints as they are needed: the baseline stays, the others take turns."""

    def __init__(
        self,
        checkpoints: list[Checkpoint],
        suite: Suite,
        text: TextSource,
        device: torch.device,
        surroundings: Mapping[str, Any],
        dtype: str,
        batch_size: int | None,
        store: Store,
        reporter: Reporter,
        peers: Peers,
    ) -> None:
        self.checkpoints, self.suite, self.text = checkpoints, suite, text
        self.device, self.surroundings = device, surroundings
        self.dtype, self.batch_size = dtype, batch_size
        self.store, self.reporter, self.peers = store, reporter, peers
        self.loaded: dict[str, Loaded] = {}

    def measure_all(self) -> Iterator[tuple[str, str, Outcome]]:
        """Measure, checkpoint name and outcome, one after the other."""
        baseline, took = self.checkpoints[0], dict.fromkeys(self.suite.sections(), 0.0)
        for index, checkpoint in enumerate(self.checkpoints):
            for name, section in self.suite.sections().items():
                outcome = self._measure(MEASURES[name], section, checkpoint)
                took[name] = max(took[name], outcome.wall_s)
                yield name, checkpoint.name, outcome
            self.loaded = {name: value for name, value in self.loaded.items() if name == baseline.name}
            left = len(self.checkpoints) - index - 1
            if left:
                # Every other checkpoint is taken to be as slow as the slowest so far.
                self.reporter.line(
                    f"{left} of {len(self.checkpoints)} left, {duration(left * sum(took.values()))}"
                )

    def _measure(self, measure: Measure, section: Section, checkpoint: Checkpoint) -> Outcome:
        baseline = self.checkpoints[0]
        if measure.compares_only and checkpoint is baseline:
            return Outcome(metrics=[])
        alone = checkpoint is baseline or not measure.uses_baseline
        measured_with = ("torch", "transformers", *(("device", "cpu", "threads") if measure.timed else ()))
        key = measurement_key(
            measure=measure.name,
            section=section.model_dump(mode="json") | measure.inputs(section),
            checkpoint=[checkpoint.record.digest, checkpoint.record.tokenizer_digest],
            baseline=None if alone else [baseline.record.digest, baseline.record.tokenizer_digest],
            text=self.text.digest if measure.uses_text else None,
            seed=self.suite.seed,
            device=self.device.type,
            dtype=self.dtype,
            measured_with=[self.surroundings[what] for what in measured_with],
        )
        stored = self.peers.from_main(lambda: self.store.get(checkpoint.name, measure.name, key))
        if stored is not None:
            self.reporter.line(f"{checkpoint.name}: {measure.name}: measured before")
            return stored

        def make(journal: Journal) -> Outcome:
            return self._run(measure, section, checkpoint, None if alone else baseline, journal)

        if measure.split:
            share = make(Journal())
            outcome = self.peers.from_main(lambda: share)
        else:
            journal = self.store.journal(checkpoint.name, measure.name, f"{key} {self.batch_size}")
            outcome = self.peers.from_main(lambda: make(journal))
        outcome.key = key
        if self.peers.main:
            self.store.put(checkpoint.name, measure.name, outcome)
        return outcome

    def _run(
        self,
        measure: Measure,
        section: Section,
        checkpoint: Checkpoint,
        baseline: Checkpoint | None,
        journal: Journal,
    ) -> Outcome:
        """Load what the measure needs, and measure; ``baseline`` only for a measure that looks at it."""
        subject = self._load(checkpoint, measure.loads(section))
        other = None if baseline is None else self._load(baseline, weights=True)
        start = time.perf_counter()
        torch.manual_seed(self.suite.seed)
        with self.reporter.step(f"{checkpoint.name}: {measure.name}", measure.work(section)) as tick:
            if journal.found:
                self.reporter.line(f"{checkpoint.name}: {measure.name}: goes on after {journal.found} parts")
            ask = Ask(
                subject,
                other,
                section,
                self.text,
                self.suite.seed,
                self.batch_size,
                tick,
                journal,
                self.peers,
            )
            outcome = measure.run(ask)
        outcome.wall_s = round(time.perf_counter() - start, 3)
        return outcome

    def _load(self, checkpoint: Checkpoint, weights: bool) -> Loaded:
        """The checkpoint in memory. An engine that loads the folder itself needs the room of all others."""
        dtype = pick_dtype(self.dtype, self.device, checkpoint)
        if not weights:
            self.loaded.clear()
            return load(checkpoint, self.device, dtype, weights=False)
        if checkpoint.name not in self.loaded:
            self.loaded[checkpoint.name] = load(checkpoint, self.device, dtype)
        return self.loaded[checkpoint.name]
