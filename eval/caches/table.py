"""The rows for people: a table per length, in Markdown and on a terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.caches.records import Report
from eval.report.wording import DASH, TIMES, bytes_text, delta_text, value_text

NOTE = (
    "Bytes are of one sequence, held after the last of its tokens, and by the policy's formula; those of "
    "peers are what the allocator gets back. Peaks count everything that was allocated beside the weights: "
    "the cache, activations, logits; in a first pass over the document, and in a decode step after it. "
    "Perplexity: half of each document is read at once, the rest in passes of {chunk} tokens, whose "
    "predictions are scored. Retrieval: the document is read before the question comes. Errors are standard "
    "errors; differences are from `{baseline}`, over the same documents. A decode step: median, and the "
    "median ratio within a turn."
)


def columns(report: Report, length: int) -> dict[str, str]:
    """Keys of rows, and what their columns are called."""
    keys = {f"kv_bytes@{length}": "cache", f"kv_formula@{length}": "by formula"}
    keys[f"perplexity@{length}"] = f"perplexity, {length // 2:,} on"
    keys |= {f"{kind}@{length}": kind for kind in report.settings["kinds"]}
    keys[f"decode@{length}"] = "decode step, ms"
    return keys | {f"peak_decode@{length}": "peak, decode", f"peak_prefill@{length}": "peak, prefill"}


def table(report: Report, length: int) -> Iterator[list[str]]:
    """One line per contender with numbers: its name, and a cell for every column."""
    keys = columns(report, length)
    for contender in report.contenders:
        if contender.verdict == "measured":
            yield [contender.name, *(_cell(report, key, contender.name) for key in keys)]


def remarks(report: Report) -> list[str]:
    """Who has no numbers and why, and what makes numbers say less than they seem to."""
    absent = [each for each in report.contenders if each.verdict != "measured"]
    return [f"{each.name}: {each.verdict}: {each.reason}" for each in absent] + report.warnings


def _cell(report: Report, key: str, name: str) -> str:
    row = report.row(key)
    cell = None if row is None else row.cells.get(name)
    if row is None or cell is None or cell.value is None:
        return DASH
    if key.startswith("kv_formula"):
        return bytes_text(cell.value)
    if key.startswith("kv_bytes"):
        # What a cache is chosen for.
        return f"{bytes_text(cell.value)}" + ("" if cell.ratio is None else f", {cell.ratio:.1%}")
    if row.unit == "ms":
        return value_text(row, cell) + ("" if cell.ratio is None else f" ({TIMES} {cell.ratio:.2f})")
    change = delta_text(row, cell)
    return value_text(row, cell) + (f" ({change})" if change else "")


def title(report: Report) -> str:
    """What was measured, and where."""
    config, machine = report.checkpoint.config, report.environment
    return (
        f"{report.checkpoint.name}: {config['layers']} layers, {config['kv_heads']} KV heads of "
        f"{config['head_dim']}; {machine['device']} ({machine['cpu']}, {machine['threads']} threads), "
        f"{machine['dtype']}, torch {machine['torch']}, transformers {machine['transformers']}; text: "
        f"{report.text['origin']}, {report.settings['samples']} documents a number"
    )


def note(report: Report) -> str:
    """How to read it."""
    return NOTE.format(chunk=report.settings["chunk"], baseline=report.contenders[0].name)


def markdown(report: Report) -> str:
    """``table.md``."""
    lines = ["## Caches", "", title(report), ""]
    for length in report.settings["lengths"]:
        names = list(columns(report, length).values())
        lines += [f"### {length:,} tokens", "", "| " + " | ".join(["policy", *names]) + " |"]
        lines.append("|---|" + "---:|" * len(names))
        lines += [
            "| " + " | ".join(part.replace("|", "/") for part in line) + " |"
            for line in table(report, length)
        ]
        lines.append("")
    lines += [f"- {remark}" for remark in remarks(report)] + [""] * bool(remarks(report))
    lines += [note(report), "", "Peaks in the policies' own words:", ""]
    lines += [f"- `{each.name}`: {each.peak}" for each in report.contenders if each.peak]
    lines += ["", f"{report.date}, {report.wall_s:.0f} s.", "", "```", report.command, "```", ""]
    return "\n".join(lines)


def print_report(report: Report, console: Console) -> None:
    """The same tables without the peaks, for which a terminal is too narrow."""
    console.print(title(report), highlight=False, markup=False)
    for length in report.settings["lengths"]:
        names = [name for name in columns(report, length).values() if "peak" not in name]
        shown = Table("policy", title=f"{length:,} tokens", title_justify="left")
        for name in names:
            shown.add_column(name, justify="right", overflow="fold")
        for line in table(report, length):
            shown.add_row(*map(escape, line[: len(names) + 1]))
        console.print(shown)
    for remark in remarks(report):
        console.print(remark, style="yellow", highlight=False, markup=False)
