"""All contenders, one after another on the same documents; steps are timed in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from eval.caches import needles, perplexity
from eval.caches.contenders import Contender, contenders, try_out
from eval.caches.costs import measure_bytes, measure_speed
from eval.caches.records import Ask, ContenderRecord, Report
from eval.checkpoint import Loaded, load, one_line
from eval.compare import rows_of
from eval.contexts import Contexts, pack
from eval.environment import environment
from eval.results import Metric, Outcome
from eval.retrieval.document import Document

Tell = Callable[[str], None]
ABLE = 0.5
"""Share of answers below which a model says nothing about what a cache loses."""


@dataclass
class _Bench:
    """What is measured with, and what was found so far."""

    ask: Ask
    loaded: Loaded
    tell: Tell
    found: dict[str, dict[str, Outcome]] = field(default_factory=dict)

    def add(self, measure: str, name: str, metric: Metric, detail: Any = None) -> None:
        outcome = self.found.setdefault(measure, {}).setdefault(name, Outcome(metrics=[]))
        outcome.metrics.append(metric)
        if detail is not None:
            outcome.detail[metric.key] = detail

    def forget(self, name: str) -> None:
        """Leave out what somebody measured who then failed."""
        for outcomes in self.found.values():
            outcomes.pop(name, None)

    def measure_one(
        self, contender: Contender, contexts: Contexts, documents: list[list[Document]], ids: Tensor
    ) -> None:
        """Quality and bytes at one length."""
        self.add("perplexity", contender.name, *self._perplexity(contender, contexts))
        for asked in documents:
            self.add("retrieval", contender.name, *needles.measure(self.loaded, contender.make, asked))
        for metric in measure_bytes(self.loaded, contender, ids):
            self.add("bytes", contender.name, metric)

    def _perplexity(self, contender: Contender, contexts: Contexts) -> tuple[Metric, list[float]]:
        return perplexity.measure(self.loaded, contender.make, contexts, self.ask.chunk)


def measure(ask: Ask, command: str, tell: Tell) -> Report:
    """Measure everything that is asked.

    Args:
        ask: What.
        command: That asked it, for the report.
        tell: Called with a line before every step.

    Raises:
        EvalError: the checkpoint does not load, the text is too short, or a policy cannot serve the model.
    """
    began = time.perf_counter()
    torch.set_num_threads(ask.threads)
    bench = _Bench(ask, load(ask.checkpoint, ask.device, ask.dtype), tell)
    listed = list(contenders(ask, bench.loaded))
    records = {each.name: try_out(each, bench.loaded) for each in listed}
    for length in ask.lengths:
        _measure_length(bench, length, listed, records)
    names = [each.name for each in listed]
    dtype = str(ask.dtype).removeprefix("torch.")
    return Report(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=time.perf_counter() - began,
        environment=environment(ask.device, dtype),
        checkpoint=ask.checkpoint.record,
        text={"origin": ask.text.origin, "digest": ask.text.digest},
        settings={
            "lengths": ask.lengths,
            "samples": ask.samples,
            "kinds": ask.kinds,
            "chunk": ask.chunk,
            "seed": ask.seed,
        },
        contenders=list(records.values()),
        rows=rows_of(bench.found, names, ask.seed),
        details={
            measure: {name: outcome.detail for name, outcome in outcomes.items() if outcome.detail}
            for measure, outcomes in bench.found.items()
        },
        warnings=_warnings(bench, names[0]),
    )


def _measure_length(
    bench: _Bench, length: int, listed: list[Contender], records: dict[str, ContenderRecord]
) -> None:
    ask, loaded = bench.ask, bench.loaded
    contexts = pack(ask.text, loaded.tokenizer, loaded.bos, length, ask.samples)
    documents = [needles.documents(ask, loaded, kind, length) for kind in ask.kinds]
    ids = contexts.ids[:1].to(ask.device)
    for contender in listed:
        if records[contender.name].verdict == "measured":
            bench.tell(f"{contender.name}, {length} tokens")
            try:
                bench.measure_one(contender, contexts, documents, ids)
            # Whatever a cache of others raises is its reason.
            except Exception as error:
                if not contender.peer:
                    raise
                bench.forget(contender.name)
                changes = {"verdict": "cannot run", "reason": one_line(error)}
                records[contender.name] = records[contender.name].model_copy(update=changes)
    bench.tell(f"decode steps in turns, {length} tokens")
    timed = [each for each in listed if records[each.name].verdict == "measured"]
    for name, (metric, times) in measure_speed(loaded, timed, ids, ask.runs).items():
        bench.add("speed", name, metric, times)


def _warnings(bench: _Bench, baseline: str) -> list[str]:
    """What makes the numbers say less than they seem to."""
    warnings = []
    outcome = bench.found.get("retrieval", {}).get(baseline)
    for metric in outcome.metrics if outcome else ():
        if metric.value is not None and metric.value < 100 * ABLE:
            warnings.append(
                f"{metric.label}: the model answers only {metric.value:.0f}% with everything kept, so this "
                "says little about what a cache loses"
            )
    return warnings
