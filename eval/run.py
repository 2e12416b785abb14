"""Measure checkpoints side by side and write what was found: the room's front door for Python."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from eval.checkpoint import Checkpoint, Loaded, find_checkpoint, load, pick_device, pick_dtype
from eval.compare import rows_of
from eval.environment import environment
from eval.errors import EvalError
from eval.measures import MEASURES
from eval.measures.base import Ask, Measure
from eval.names import check_names
from eval.progress import Reporter
from eval.report.write import write_report
from eval.results import Outcome, Results
from eval.sections import Section
from eval.store import Store, measurement_key, write_text
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
) -> Results:
    """Run a suite on checkpoints and write ``results.json``, ``report.md``, ``report.html`` and ``samples/``.

    What was measured before in the same ``output``, from the same weights, text and settings, is read back
    from ``output/measurements`` instead of being measured again.

    Args:
        checkpoints: Names and folders; the first is the baseline.
        suite: What to measure (:func:`eval.suite.load_suite`).
        output: Folder for the results, made if absent.
        device: ``auto``, ``cpu``, ``cuda`` ...
        dtype: ``auto`` (the checkpoint's own, float32 on a CPU), ``float32``, ``bfloat16`` or ``float16``.
        batch_size: Sequences at a time; chosen by length when not given.
        command: Noted in the results, so that a reader can repeat them.
        reporter: Where progress goes; nowhere when not given.

    Raises:
        EvalError: a checkpoint does not load or cannot be measured as asked, an unknown name, an unusable
        output.
    """
    check_names([name for name, _ in checkpoints])
    if not suite.sections():
        raise EvalError(f"suite {suite.name!r} measures nothing: give it one of {', '.join(MEASURES)}")
    where = pick_device(device)
    text = read_text(suite.text, suite.text_start)
    found = [find_checkpoint(name, path) for name, path in checkpoints]
    for checkpoint in found:
        for name, section in suite.sections().items():
            MEASURES[name].check(checkpoint, section)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "measurements" / ".writable", "")
        (folder / "measurements" / ".writable").unlink()
    except OSError as error:
        raise EvalError(f"output {str(output)!r} cannot be written: {error.strerror}") from None
    bench = _Bench(found, suite, text, where, dtype, batch_size, Store(folder), reporter or Reporter(None))
    outcomes = bench.measure_all()
    results = _results(found, suite, text, outcomes, command, environment(where, dtype))
    write_text(folder / "results.json", results.model_dump_json(indent=1))
    write_report(results, folder)
    return results


class _Bench:
    """Loads checkpoints as they are needed: the baseline stays, the others take turns."""

    def __init__(
        self,
        checkpoints: list[Checkpoint],
        suite: Suite,
        text: TextSource,
        device: torch.device,
        dtype: str,
        batch_size: int | None,
        store: Store,
        reporter: Reporter,
    ) -> None:
        self.checkpoints, self.suite, self.text = checkpoints, suite, text
        self.device, self.dtype, self.batch_size = device, dtype, batch_size
        self.store, self.reporter = store, reporter
        self.loaded: dict[str, Loaded] = {}

    def measure_all(self) -> dict[str, dict[str, Outcome]]:
        """Outcomes by measure and checkpoint name."""
        outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in self.suite.sections()}
        baseline = self.checkpoints[0]
        for checkpoint in self.checkpoints:
            for name, section in self.suite.sections().items():
                outcomes[name][checkpoint.name] = self._measure(MEASURES[name], section, checkpoint)
            self.loaded = {name: value for name, value in self.loaded.items() if name == baseline.name}
        return outcomes

    def _measure(self, measure: Measure, section: Section, checkpoint: Checkpoint) -> Outcome:
        baseline = self.checkpoints[0]
        if measure.compares_only and checkpoint is baseline:
            return Outcome(metrics=[])
        alone = checkpoint is baseline or not measure.uses_baseline
        key = measurement_key(
            measure=measure.name,
            section=section.model_dump(mode="json"),
            checkpoint=[checkpoint.record.digest, checkpoint.record.tokenizer_digest],
            baseline=None if alone else [baseline.record.digest, baseline.record.tokenizer_digest],
            text=self.text.digest if measure.uses_text else None,
            seed=self.suite.seed,
            device=str(self.device),
            dtype=self.dtype,
            threads=torch.get_num_threads() if measure.name == "speed" else None,
        )
        stored = self.store.get(checkpoint.name, measure.name, key)
        if stored is not None:
            self.reporter.line(f"{checkpoint.name}: {measure.name}: measured before")
            return stored
        label = f"{checkpoint.name}: {measure.name}"
        subject = self._load(checkpoint)
        other = None if alone else self._load(baseline)
        start = time.perf_counter()
        torch.manual_seed(self.suite.seed)
        with self.reporter.step(label, measure.work(section)) as tick:
            ask = Ask(subject, other, section, self.text, self.suite.seed, self.batch_size, tick)
            outcome = measure.run(ask)
        outcome.wall_s = round(time.perf_counter() - start, 3)
        self.store.put(checkpoint.name, measure.name, key, outcome)
        return outcome

    def _load(self, checkpoint: Checkpoint) -> Loaded:
        if checkpoint.name not in self.loaded:
            dtype = pick_dtype(self.dtype, self.device, checkpoint)
            self.loaded[checkpoint.name] = load(checkpoint, self.device, dtype)
        return self.loaded[checkpoint.name]


def _results(
    checkpoints: list[Checkpoint],
    suite: Suite,
    text: TextSource,
    outcomes: dict[str, dict[str, Outcome]],
    command: str,
    surroundings: dict[str, Any],
) -> Results:
    """Put the outcomes into one record."""
    warnings = [
        line for by_name in outcomes.values() for outcome in by_name.values() for line in outcome.warnings
    ]
    if text.synthetic and any(MEASURES[name].uses_text for name in outcomes):
        warnings.append("measured on the built-in synthetic text: give --text FILE for numbers worth quoting")
    if len({checkpoint.record.tokenizer_digest for checkpoint in checkpoints}) > 1:
        warnings.append(
            "the checkpoints' tokenizer files differ: if they cut text differently, samples do not pair up"
        )
    return Results(
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=surroundings,
        seed=suite.seed,
        suite=suite.model_dump(mode="json", exclude_none=True),
        text={"origin": text.origin, "digest": text.digest, "characters": text.characters},
        checkpoints=[checkpoint.record for checkpoint in checkpoints],
        measures={name: MEASURES[name].how for name in outcomes},
        rows=rows_of(outcomes, [checkpoint.name for checkpoint in checkpoints]),
        details={
            name: {who: outcome.detail for who, outcome in by_name.items()}
            for name, by_name in outcomes.items()
        },
        warnings=warnings,
        wall_s={name: {who: outcome.wall_s for who, outcome in by.items()} for name, by in outcomes.items()},
    )
