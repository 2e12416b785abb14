"""The three files of a report."""

from pathlib import Path

from eval.errors import EvalError
from eval.speed.plot import picture
from eval.speed.records import Report
from eval.speed.table import markdown
from eval.store import write_text


def prepare_folder(folder: Path) -> None:
    """Make the folder before minutes are spent on what could not be written.

    Raises:
        EvalError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvalError(f"--output {str(folder)!r} cannot be written: {error.strerror}") from None


def write_report(report: Report, folder: Path) -> None:
    """``speed.json``, ``speed.md`` and, where anything was timed, ``speed.png``."""
    write_text(folder / "speed.json", report.model_dump_json(indent=1))
    write_text(folder / "speed.md", markdown(report))
    image = picture(report)
    if image is not None:
        (folder / "speed.png").write_bytes(image)
