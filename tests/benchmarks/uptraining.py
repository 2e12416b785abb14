"""What wins the quality of a converted checkpoint back: the GQA paper's training and ours, in equal steps.

    python tests/benchmarks/uptraining.py CHECKPOINT --train train.txt --held-out test.txt --output runs/up

Converts a checkpoint to fewer KV heads, a window, sinks and some global layers, in each way of ``VARIANTS``,
and trains each with the same text, parameters, steps and schedule. Every variant is a recipe, left in the
output folder as ``NAME.yaml`` beside its run. Prints and leaves ``uptraining.md`` and ``curves.png``: the KL
to the source on rows that were set aside, against the tokens that were trained on. Variants that have ended
are read back.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.results import Results

BY_TEXT = {"calibrate_tokens": 16384, "calibrate_batch": 4}
DISTILLED = {"kl_weight": 1.0, "attention_weight": 3.0}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # The teacher's weight is too small to teach; it lets the KL be measured.
    "mean-ce": ({"merge": "mean"}, {"ce_weight": 1.0, "kl_weight": 1e-12}),
    "mean-kd": ({"merge": "mean"}, DISTILLED),
    "subspace-refit-kd": ({"reconstruct": 0} | BY_TEXT, DISTILLED),
    "subspace-refit-reconstruct-kd": ({"reconstruct": 60} | BY_TEXT, DISTILLED),
}
"""Name to what it adds to the conversion and to the training."""
REACHED = 0.05
"""Of the KL that mean pooling begins with."""
ROOT = Path(__file__).parents[2]


class Run(NamedTuple):
    """A variant's report, its held-out KL by tokens, and seconds of the training and of the whole run."""

    results: Results
    curve: list[tuple[int, float]]
    training: float
    whole: float


def main() -> None:
    """Run every variant, or read it back; print the table."""
    arguments = parse()
    arguments.output.mkdir(parents=True, exist_ok=True)
    runs = {name: carry_out(name, arguments) for name in arguments.variants}
    draw(runs, arguments.output / "curves.png")
    table = "\n".join(lines(runs))
    (arguments.output / "uptraining.md").write_text(table + "\n", encoding="utf-8")
    print(table)


def carry_out(name: str, arguments: argparse.Namespace) -> Run:
    """One variant as a recipe."""
    file = arguments.output / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe(name, arguments), sort_keys=False), encoding="utf-8")
    folder = arguments.output / name
    timing = arguments.output / f"{name}.seconds"
    begun = time.monotonic()
    if not timing.is_file():
        subprocess.run(command(file, folder, arguments.processes), cwd=ROOT, env=one_thread(), check=True)
        timing.write_text(f"{time.monotonic() - begun:.0f}\n", encoding="utf-8")
    results = Results.model_validate_json((folder / "results.json").read_text())
    log = json.loads((folder / "training" / "log.json").read_text())["log_history"]
    step_tokens = arguments.batch * arguments.length
    curve = [(entry["step"] * step_tokens, entry["heldout_kl"]) for entry in log if "heldout_kl" in entry]
    training = next(entry["train_runtime"] for entry in log if "train_runtime" in entry)
    return Run(results, curve, training, float(timing.read_text()))


def command(file: Path, folder: Path, processes: int) -> list[str]:
    """What runs a recipe, in some processes that share its rows (DDP)."""
    run = ["-m", "recipes", "run", str(file.resolve()), "--output", str(folder.resolve()), "--resume"]
    if processes == 1:
        return [sys.executable, *run]
    config = str(ROOT / "recipes" / "accelerate" / "two_processes_cpu.yaml")
    launch = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", config]
    return [*launch, "--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0", *run]


def one_thread() -> dict[str, str]:
    """The environment of processes that have a core each."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def recipe(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The variant as a recipe says it."""
    conversion, training = VARIANTS[name]
    train = str(arguments.train.resolve())
    convert = {
        "kv_heads": arguments.kv_heads,
        "window": arguments.window,
        "sinks": 4,
        "global_layers": arguments.global_layers,
    }
    if "merge" not in conversion:
        convert["calibrate"] = train
    lengths = [arguments.length // 2, arguments.length * 3 // 4, arguments.length - 12]
    return {
        "name": name,
        "source": str(arguments.checkpoint.resolve()),
        "convert": convert | conversion,
        "uptrain": {
            "data": [
                {"kind": "retrieval", "file": train, "lengths": lengths, "digits": 4, "seed": 1000},
                {"kind": "file", "file": train, "seed": 0, "weight": 3.0},
            ],
            "packing": "joined",
            "steps": arguments.steps,
            "length": arguments.length,
            "batch_size": arguments.batch // arguments.processes,
            "learning_rate": arguments.learning_rate,
            "warmup_steps": 20,
            "lora": {
                "rank": 96,
                "alpha": 96,
                "targets": ["q_proj"],
                "full": ["k_proj", "v_proj", "o_proj"],
            },
            "heldout": {"rows": 8, "every": 20},
            "log_every": 20,
            **training,
        },
        "eval": {
            "name": "uptraining",
            "text": str(arguments.held_out.resolve()),
            "seed": 7,
            "perplexity": {"length": arguments.length, "contexts": 32},
            "agreement": {"length": arguments.length, "contexts": 16},
            "needle": {
                "lengths": [arguments.length // 2, arguments.length - 22],
                "depths": [0.0, 0.25, 0.5, 0.75],
                "samples": arguments.samples,
                "controls": 5,
                "digits": 4,
            },
            "footprint": {"lengths": [arguments.length]},
        },
    }


def lines(runs: dict[str, Run]) -> list[str]:
    """The table: one row per variant, behind one for the source."""
    first = next(iter(runs.values()))
    starts = [run.curve[0][1] for name, run in runs.items() if name.startswith("mean")]
    goal = REACHED * starts[0] if starts else None
    bytes_key = next(row.key for row in first.results.rows if row.key.startswith("kv_bytes"))

    def value(run: Run, key: str, column: str) -> float:
        found = run.results.cell(key, column).value
        assert found is not None
        return found

    def spread(run: Run, key: str, column: str) -> str:
        cell = run.results.cell(key, column)
        return f"{cell.value:.1f} ± {cell.stderr:.1f}%"

    whole = value(first, "perplexity", "source")
    head = (
        "| | perplexity, converted | uptrained | to the source | KL | needles, converted | uptrained | bytes "
    )
    table = [
        head + f"| held-out KL at first, at last | tokens to {REACHED:.0%} of mean's first KL "
        "| training, whole run |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        f"| source | | {whole:.2f} | | | | {spread(first, 'needle', 'source')} | 1 | | | |",
    ]
    for name, run in runs.items():
        before, after = (value(run, "perplexity", column) for column in ("converted", "uptrained"))
        share = value(run, bytes_key, "source") / value(run, bytes_key, "uptrained")
        reached = next((tokens for tokens, kl in run.curve if goal is not None and kl <= goal), None)
        cells = [
            f"`{name}`",
            f"{before:.2f}",
            f"{after:.2f}",
            f"{after / whole - 1:+.1%}",
            f"{value(run, 'kl', 'uptrained'):.4f}",
            spread(run, "needle", "converted"),
            spread(run, "needle", "uptrained"),
            f"1/{share:.1f}",
            f"{run.curve[0][1]:.3f}, {run.curve[-1][1]:.3f}",
            "not reached" if reached is None else f"{reached:,}",
            f"{run.training:.0f} s, {run.whole:.0f} s",
        ]
        table.append(f"| {' | '.join(cells)} |")
    return table


def draw(runs: dict[str, Run], path: Path) -> None:
    """KL against tokens, on logarithmic axes but for the tokens."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, run in runs.items():
        axes.plot(*zip(*run.curve, strict=True), label=name, marker="o", markersize=2.5, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel("held-out KL from the source, nats per token")
    axes.grid(True, alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="text, documents apart by blank lines")
    parser.add_argument("--held-out", type=Path, required=True, help="the same kind of text, not in --train")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--global-layers", default="3,5")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=4, help="rows per step, of all processes")
    parser.add_argument("--processes", type=int, default=2, help="a core each; they divide --batch")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--samples", type=int, default=10, help="needles per length and depth")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
