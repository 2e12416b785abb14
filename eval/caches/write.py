"""The three files of a report."""

from pathlib import Path

from eval.caches.plot import picture
from eval.caches.records import Report
from eval.caches.table import markdown
from eval.store import write_text


def write_report(report: Report, folder: Path) -> None:
    """``results.json``, ``table.md`` and ``plot.png``."""
    write_text(folder / "results.json", report.model_dump_json(indent=1))
    write_text(folder / "table.md", markdown(report))
    (folder / "plot.png").write_bytes(picture(report))
