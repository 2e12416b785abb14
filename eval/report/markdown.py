"""``report.md``: the verdict and the short table, to paste into a pull request."""

from eval.report.tasks import task_lines
from eval.report.verdict import verdicts
from eval.report.wording import count_text, delta_text, evidence_text, gate_text, label_text, value_text
from eval.results import Results, Row


def markdown(results: Results) -> str:
    """The report as GitHub-flavoured Markdown."""
    names = [checkpoint.name for checkpoint in results.checkpoints]
    lines = [f"## Evaluation: {' / '.join(names)}", ""]
    for name, sentences in verdicts(results).items():
        lines.append(f"- **{name}**: {' '.join(sentences)}")
    for gate in results.gates:
        mark = "passed" if gate.passed else "**failed**"
        lines.append(
            f"- gate {mark}, {gate.checkpoint}: {gate_text(gate)}".replace("*baseline", r"\*baseline")
        )
    if results.missing:
        lines.append(f"- not measured, because the evaluation was stopped: {'; '.join(results.missing)}")
    lines += ["", *table([row for row in results.rows if row.headline], names), ""]
    rest = [row for row in results.rows if not row.headline]
    if rest:
        lines += ["<details><summary>More numbers</summary>", "", *table(rest, names), "", "</details>", ""]
    if ran := task_lines(results):
        lines += ["<details><summary>How the tasks ran</summary>", "", *(f"- {line}" for line in ran)]
        lines += ["", "</details>", ""]
    lines += [f"> {warning}" for warning in results.warnings]
    lines += [f"- {note}" for note in results.notes]
    environment = results.environment
    lines += [
        "",
        f"{names[0]} is the baseline; ± is one standard error, and differences are over the same samples. "
        f"Suite `{results.suite.get('name')}`, seed {results.seed}, text: {results.text['origin']}. "
        f"{environment['device']}, {environment['dtype']}, {environment['threads']} threads, "
        f"torch {environment['torch']}, transformers {environment['transformers']}, {results.date}.",
        "",
        "```",
        results.command,
        "```",
        "",
    ]
    return "\n".join(lines)


def table(rows: list[Row], names: list[str]) -> list[str]:
    """One line per row; a cell is value and difference from the baseline."""
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for row in rows:
        cells = []
        for name in names:
            cell = row.cells.get(name)
            parts = [value_text(row, cell), delta_text(row, cell), evidence_text(cell)]
            cells.append("<br>".join(part for part in parts if part))
        lines.append(f"| {label_text(row)}<br><sub>{count_text(row)}</sub> | " + " | ".join(cells) + " |")
    return lines
