"""Write all that a reader gets into the output folder."""

from pathlib import Path

from eval.report.html import html
from eval.report.markdown import markdown
from eval.results import Results
from eval.store import write_text


def write_results(results: Results, folder: Path) -> None:
    """``results.json``, ``report.md`` and ``report.html``."""
    write_text(folder / "results.json", results.model_dump_json(indent=1))
    write_text(folder / "report.md", markdown(results))
    write_text(folder / "report.html", html(results))
