"""``report.html``: one file with everything in it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from eval.report.heatmaps import heatmaps
from eval.report.plots import agreement_picture, memory_picture, perplexity_picture, speed_picture
from eval.report.tasks import task_lines
from eval.report.verdict import verdicts
from eval.report.wording import (
    count_text,
    delta_text,
    evidence_text,
    gate_text,
    interval_text,
    judge,
    label_text,
    value_text,
)
from eval.results import Results, Row

_TEMPLATES = Path(__file__).parent


def html(results: Results) -> str:
    """The page: verdict, table, pictures, controls, how it was measured. Nothing from the network.

    Holds: no address but data and the samples beside it (tests/eval/test_run.py); renders, sorts and says
    nothing on the console of a browser (tests/eval/test_page.py).
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = [checkpoint.name for checkpoint in results.checkpoints]
    drawn = (memory_picture, perplexity_picture, agreement_picture, speed_picture)
    charts = [chart(results) for chart in drawn]
    return environment.get_template("page.html.j2").render(
        results=results,
        names=names,
        verdicts=verdicts(results),
        gate_text=gate_text,
        headline=_lines([row for row in results.rows if row.headline], names),
        rest=_lines([row for row in results.rows if not row.headline], names),
        retrieval=heatmaps(results),
        tasks=task_lines(results),
        charts=[chart for chart in charts if chart is not None],
        seconds=round(sum(sum(by_name.values()) for by_name in results.wall_s.values())),
    )


def _lines(rows: list[Row], names: list[str]) -> list[dict[str, object]]:
    """Rows as text for the template."""
    return [
        {
            "label": label_text(row),
            "count": count_text(row),
            "better": {"lower": "lower is better", "higher": "higher is better"}.get(row.better, ""),
            "cells": [
                {
                    "number": "" if cell is None or cell.value is None else cell.value,
                    "value": value_text(row, cell),
                    "delta": delta_text(row, cell),
                    "evidence": evidence_text(cell),
                    "interval": interval_text(cell),
                    "judgement": judge(row, cell),
                    "samples": "" if cell is None else cell.samples,
                }
                for cell in map(row.cells.get, names)
            ],
        }
        for row in rows
    ]
