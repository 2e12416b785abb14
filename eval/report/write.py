"""Write both reports into the output folder."""

from pathlib import Path

from eval.report.html import html
from eval.report.markdown import markdown
from eval.results import Results
from eval.store import write_text


def write_report(results: Results, folder: Path) -> None:
    """``report.md`` and ``report.html`` beside ``results.json``."""
    write_text(folder / "report.md", markdown(results))
    write_text(folder / "report.html", html(results))
