"""The verdict: for every checkpoint but the first, what was gained and what was lost, in words."""

from eval.report.wording import Judgement, amount, bytes_text, delta_text, evidence_text, judge, number
from eval.results import Results, Row
from eval.retrieval import KINDS

_SIGNIFICANT: dict[Judgement, str] = {
    "better": "significantly better",
    "worse": "significantly worse",
    "same": "no significant difference",
}


def verdicts(results: Results) -> dict[str, list[str]]:
    """Sentences by checkpoint name; for an evaluation of one checkpoint, its own numbers."""
    names = [checkpoint.name for checkpoint in results.checkpoints]
    chosen = names[1:] or names
    return {name: _sentences(results, name) for name in chosen}


def _sentences(results: Results, name: str) -> list[str]:
    base = results.baseline
    sentences = []
    memory = next((row for row in results.rows if row.key.startswith("kv_bytes@") and row.headline), None)
    if memory is not None:
        sentences.append(_memory(memory, name, base))
    for key, what in (("perplexity", "Perplexity"), ("needle", "Needles found")):
        row = next((row for row in results.rows if row.key == key), None)
        if row is not None and name in row.cells:
            sentences.append(_quality(row, what, name, base))
    beyond = results.cell("needle_beyond", name)
    if beyond is not None and beyond.value is not None:
        sentences.append(f"Of the {beyond.n} needles beyond its window it finds {beyond.value:.0f}%.")
    others = (row for row in results.rows if row.key in KINDS and row.key != "needle")
    worse = [
        f"{row.label} ({delta_text(row, row.cells[name])})"
        for row in others
        if judge(row, row.cells.get(name)) == "worse"
    ]
    if worse:
        sentences.append(f"Other retrieval that is significantly worse: {', '.join(worse)}.")
    removed = results.cell("needle_removed", name)
    if removed is not None and removed.value:
        sentences.append(f"Mind: it answers rightly in {removed.value:.0f}% of documents without a needle.")
    gates = [gate for gate in results.gates if gate.checkpoint == name]
    if gates:
        failed = [gate.gate for gate in gates if not gate.passed]
        said = f"fails {', '.join(failed)}" if failed else "passes every gate"
        sentences.insert(0, f"It {said}.")
    return [sentence for sentence in sentences if sentence]


def _memory(row: Row, name: str, base: str) -> str:
    cell, first = row.cells.get(name), row.cells.get(base)
    if cell is None or cell.value is None:
        return ""
    where = row.label.removeprefix("KV cache at ").removesuffix(", held")
    held = f"KV cache of one sequence at {where}: {bytes_text(cell.value)}"
    if name == base or first is None or not first.value:
        return held + "."
    if cell.value == first.value:
        return f"{held}, the same as {base}."
    factor = first.value / cell.value
    change = f"{number(factor)} times smaller" if factor > 1 else f"{number(1 / factor)} times larger"
    return f"{held}, {change} than {base}'s {bytes_text(first.value)}."


def _quality(row: Row, what: str, name: str, base: str) -> str:
    cell, first = row.cells[name], row.cells.get(base)
    if cell.value is None:
        return ""
    if name == base or first is None or first.value is None:
        return f"{what}: {amount(row, cell.value)}."
    if cell.delta == 0:
        return f"{what}: {amount(row, cell.value)}, the same as {base}."
    evidence = evidence_text(cell)
    return (
        f"{what}: {amount(row, cell.value)} against {amount(row, first.value)} ({delta_text(row, cell)}): "
        f"{_SIGNIFICANT[judge(row, cell)]}{f' ({evidence})' if evidence else ''}."
    )
