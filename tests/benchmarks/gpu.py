"""Exactness first, then the speed rows that the kernels were made for, each beside its target.

    python tests/benchmarks/gpu.py --output runs/gpu [--only ROWS] [--skip-checks]

On one H200-class GPU. Runs ``pytest -m gpu tests/patches`` and ``python -m patches check --device cuda``,
then ``python -m eval speed`` once per group of rows (its tables are left in the output folder), and writes
``targets.md``: every target with what was measured, or "not measured" and why. A wrong kernel stops the run.
This script itself has not been run on a GPU yet.
The times of the peer are those that its README reports for an H200: one row, 32 query and 8 KV heads of 128,
window 4096, 4 sinks.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eval.speed.records import ATTENTION, BACKWARD, FORWARD, MODEL, OWN, Report, Row
from eval.speed.timing import paired_ratio

ROOT = Path(__file__).parents[2]
COMMON = ["--window", "4096", "--sinks", "4", "--device", "cuda", "--dtype", "bfloat16", "--runs", "30"]
PEER_SHAPE = ["--shape", "llama-3-8b"]
FLOOR = "FlashAttention-2, window alone"
GROUPS = {
    "prefill": [
        *PEER_SHAPE, "--lengths", "8192,16384,32768,131072", "--phases", "forward",
        "--skip", "eager,full mask",
    ],
    "training": [*PEER_SHAPE, "--lengths", "16384", "--phases", "backward", "--skip", "eager,full mask"],
    "decode": [*PEER_SHAPE, "--lengths", "32768", "--batch", "1,32", "--phases", "attention,cache"],
    "model": [
        "--shape", "llama-2-7b", "--kv-heads", "8", "--lengths", "8192,32768", "--phases", "model",
        "--skip", "eager",
    ],
}  # fmt: skip
"""Arguments of ``python -m eval speed``, one report each."""


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Attributes:
        what: In words, with the bound.
        group: The report it is read from.
        phase: Of the rows.
        length: Tokens.
        batch: Rows.
        value: The number to compare, from the best of our rows and the row of ``against``.
        bound: The most that it may be.
        against: Another contender that it needs, or an empty text.
        own: How the names of our contenders begin, of which the fastest counts.
    """

    what: str
    group: str
    phase: str
    length: int
    value: Callable[[Row, Row | None], float]
    bound: float
    batch: int = 1
    against: str = ""
    own: str = OWN


def milliseconds(own: Row, _: Row | None) -> float:
    """Our median."""
    return own.ms or float("inf")


def over_other(own: Row, other: Row | None) -> float:
    """Our time over another's in the same turn."""
    assert other is not None
    return paired_ratio(own.turns_ms, other.turns_ms)


def over_bytes(own: Row, _: Row | None) -> float:
    """Our time over that of the bytes at the measured bandwidth."""
    return (own.ms or float("inf")) / (own.bound_ms or float("inf"))


TARGETS = [
    *(
        Target(f"prefill {n // 1024}k: over {FLOOR}", "prefill", FORWARD, n, over_other, 1.10, 1, FLOOR)
        for n in (32768, 131072)
    ),
    *(
        Target(f"prefill {n // 1024}k, ms (the peer's {ms})", "prefill", FORWARD, n, milliseconds, ms)
        for n, ms in ((8192, 1.88), (16384, 4.18), (32768, 8.77))
    ),
    Target(
        "prefill 32k: fused over two-part, else the fused one stays off", "prefill", FORWARD, 32768,
        over_other, 1 / 1.2, 1, f"{OWN} flash", f"{OWN} triton",
    ),
    Target("forward + backward 16k, ms (peer 16.4)", "training", BACKWARD, 16384, milliseconds, 12.0),
    Target("decode attention, ms a layer (peer 0.119)", "decode", ATTENTION, 32768, milliseconds, 0.020),
    Target("decode attention, batch 32, over its bytes", "decode", ATTENTION, 32768, over_bytes, 1 / 0.7, 32),
    *(
        Target(f"Llama-2-7B, 8 KV, {n // 1024}k, over its bytes", "model", MODEL, n, over_bytes, 1 / 0.7)
        for n in (8192, 32768)
    ),
]  # fmt: skip


def main() -> None:
    """Check, time, and write the table."""
    arguments = parse()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    if not arguments.skip_checks:
        for command in (["pytest", "-m", "gpu", "tests/patches"], ["patches", "check", "--device", "cuda"]):
            done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False)
            if done.returncode:
                sys.exit(f"exactness failed: python -m {' '.join(command)} ended with {done.returncode}")
    chosen = arguments.only.split(",") if arguments.only else list(GROUPS)
    reports = {group: speed(group, output / group) for group in chosen}
    lines = ["| target | at most | measured | by | |", "|---|---:|---:|---|---|"]
    lines += [line(target, reports.get(target.group)) for target in TARGETS]
    (output / "targets.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", required=True, help="folder for the reports and targets.md")
    parser.add_argument("--only", help=f"groups of rows: {', '.join(GROUPS)}")
    parser.add_argument("--skip-checks", action="store_true", help="time without the exactness tests")
    return parser.parse_args()


def speed(group: str, folder: Path) -> Report | str:
    """Run one group; its report, or why there is none."""
    command = [sys.executable, "-m", "eval", "speed", *GROUPS[group], *COMMON, "--output", str(folder)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    if done.returncode:
        return f"python -m eval speed ended with {done.returncode}"
    return Report.model_validate_json((folder / "speed.json").read_text(encoding="utf-8"))


def line(target: Target, report: Report | str | None) -> str:
    """One row of the table."""
    start = f"| {target.what} | {target.bound:.3g} |"
    if not isinstance(report, Report):
        return f"{start} not measured | | {report or 'its group was not asked for'} |"
    where = (target.phase, target.length, target.batch)
    rows = [row for row in report.rows if (row.phase, row.length, row.batch) == where]
    timed = {row.contender: row for row in rows if row.verdict == "timed"}
    own = [row for name, row in timed.items() if name.startswith(target.own)]
    other = timed.get(target.against)
    if not own or (target.against and other is None):
        reasons = {f"{row.contender}: {row.reason}" for row in rows if row.reason}
        return f"{start} not measured | | {'; '.join(sorted(reasons))} |"
    best = min(own, key=lambda row: row.ms or float("inf"))
    value = target.value(best, other)
    return f"{start} {value:.3g} | {best.contender} | {'met' if value <= target.bound else 'missed'} |"


if __name__ == "__main__":
    main()
