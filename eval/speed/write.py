"""The three files of a report."""

from pathlib import Path

from eval.speed.plot import picture
from eval.speed.records import Report
from eval.speed.table import markdown
from eval.store import write_text


def write_report(report: Report, folder: Path) -> None:
    """``speed.json``, ``speed.md`` and, where anything was timed, ``speed.png``."""
    write_text(folder / "speed.json", report.model_dump_json(indent=1))
    write_text(folder / "speed.md", markdown(report))
    image = picture(report)
    if image is not None:
        (folder / "speed.png").write_bytes(image)
