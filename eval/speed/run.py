"""Rows in order: prepare every contender, check it, time those that are right in turns."""

import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime

import torch

from eval.checkpoint import one_line
from eval.environment import environment
from eval.speed.attention import Contender, prompt_contenders
from eval.speed.ceilings import measure_ceilings
from eval.speed.costs import Costs, costs_of
from eval.speed.data import Source
from eval.speed.decode import decode_contenders
from eval.speed.model import Twins, model_contenders
from eval.speed.records import (
    ATTENTION,
    BACKWARD,
    CACHE,
    FORWARD,
    MODEL,
    OWN,
    Ask,
    Ceilings,
    Report,
    Row,
    Unable,
)
from eval.speed.reference import TOLERANCE
from eval.speed.timing import Clock, Work, in_turns, paired_ratio, quartiles

LOGITS = 2.0
"""How much farther logits may be off than one attention: rounding adds up over the layers."""
Tell = Callable[[str], None]


def measure(ask: Ask, command: str, tell: Tell) -> Report:
    """Time everything that is asked.

    Args:
        ask: What.
        command: That asked it, for the report.
        tell: Called with a line before every row.
    """
    began = time.perf_counter()
    torch.set_num_threads(ask.threads)
    if ask.device.type == "cuda":
        # Events, graphs and Triton's launches go to the current device, whatever device the tensors are on.
        torch.cuda.set_device(ask.device)
    clock = Clock(ask.device)
    tell("ceilings")
    ceilings = measure_ceilings(clock, ask.dtype)
    source = Source(ask)
    rows: list[Row] = []
    twins: Twins | str | None = None
    for phase in ask.phases:
        for length in ask.lengths:
            for batch in ask.batches:
                tell(f"{phase}, {length} tokens, batch {batch}")
                if phase == MODEL and twins is None:
                    twins = _twins(ask)
                contenders = _contenders(ask, source, twins, phase, length, batch)
                contenders = [c for c in contenders if not any(part in c.name for part in ask.skip)]
                rows += _rows(ask, clock, ceilings, contenders, (phase, length, batch))
    return Report(
        command=command,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        wall_s=time.perf_counter() - began,
        environment=environment(ask.device, str(ask.dtype).removeprefix("torch.")),
        shape=asdict(ask.shape),
        layers_of=ask.layers_of,
        data=source.origin,
        window=ask.window,
        sinks=ask.sinks,
        ceilings=ceilings,
        rows=rows,
    )


def _twins(ask: Ask) -> Twins | str:
    """The models, or why there are none."""
    try:
        return Twins(ask)
    # As for a contender: transformers has many ways to say that it cannot.
    except Exception as error:
        return one_line(error)


def _contenders(
    ask: Ask, source: Source, twins: Twins | str | None, phase: str, length: int, batch: int
) -> list[Contender]:
    if phase == MODEL:
        if not isinstance(twins, Twins):
            reason = str(twins)

            def refuse() -> tuple[Work, float]:
                raise Unable(reason)

            return [Contender("every model", "window + sinks", refuse)]
        return model_contenders(twins, length, batch)
    if phase in (FORWARD, BACKWARD):
        return prompt_contenders(source.inputs(batch, 0, length), phase == BACKWARD, ask.backends)
    return decode_contenders(source.inputs(batch, length, 1), phase == CACHE, ask.backends)


def _rows(
    ask: Ask, clock: Clock, ceilings: Ceilings, contenders: list[Contender], where: tuple[str, int, int]
) -> list[Row]:
    """One row per contender, timed, wrong or with the reason why it cannot run."""
    phase, length, batch = where
    works: dict[str, Work] = {}
    rows = []
    for contender in contenders:
        row = Row(
            phase=phase,
            contender=contender.name,
            computes=contender.computes,
            length=length,
            batch=batch,
            verdict="cannot run",
        )
        rows.append(row)
        try:
            work, row.error = contender.prepare()
        # A contender is a kernel, a compiler or a cache of others: whatever it raises is its reason.
        except Exception as error:
            row.reason = one_line(error)
            continue
        allowed = TOLERANCE[ask.dtype] * (LOGITS if phase == MODEL else 1)
        if row.error > allowed:
            row.verdict = "wrong"
            row.reason = f"relative error {row.error:.1e}, {allowed:.0e} is allowed"
            continue
        row.verdict = "timed"
        works[contender.name] = work
    times = in_turns(clock, works, ask.runs, ask.limit_s, cold=phase in (ATTENTION, CACHE))
    ours = next((times[name] for name in works if name.startswith(OWN)), None)
    for row in rows:
        if row.verdict == "timed":
            row.turns_ms = times[row.contender]
            row.slower = None if ours is None else paired_ratio(row.turns_ms, ours)
            _fill_in(row, ceilings, costs_of(ask, row))
    return rows


def _fill_in(row: Row, ceilings: Ceilings, costs: Costs) -> None:
    """Median, spread, and what they are of the machine's ceilings."""
    row.low_ms, row.ms, row.high_ms = quartiles(row.turns_ms)
    seconds = row.ms / 1000
    row.bound_ms = 1000 * costs.moved_bytes / ceilings.copy_bytes_per_s
    row.byte_fraction = costs.moved_bytes / seconds / ceilings.copy_bytes_per_s
    row.flop_fraction = costs.flop / seconds / ceilings.matmul_flop_per_s
