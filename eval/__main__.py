"""``python -m eval NAME=PATH [NAME=PATH ...] --output DIR``; beside it ``speed``, ``cache``, ``compare``."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

# lm-eval, transformers and datasets print bars of their own; the command line draws one bar per measure
# instead.
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The profiler, which is asked what was allocated, says on standard error when it starts and stops.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import typer

from eval.caches.command import app as cache
from eval.command_line import make_console, one_line_errors, split_numbers
from eval.compare_command import app as compare
from eval.errors import EvalError
from eval.gate import FAILED, GATE_HELP
from eval.names import check_names, split_pair
from eval.parallel import launched_rank, parting
from eval.retrieval import KINDS
from eval.speed.command import app as speed
from eval.suite import load_suite, narrow, suite_names

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)

LEAST_TOKENS = 4
"""Of a length that anything can be measured at."""

_NAMED = "Checkpoints as NAME=PATH. The first is the baseline; the others show differences from it."
_SUITE = f"A suite by name ({', '.join(suite_names())}) or a YAML file."
_TEXT = (
    "Text to measure on: a file of documents apart by blank lines, a .jsonl file, or a folder of .txt files."
)
_KINDS = "\n\n".join(f"`{kind.name}`: {kind.what}." for kind in KINDS.values())
_LENGTHS = (
    "Token lengths, for example 512,1024: needles and memory at each, the other measures at the longest."
)


@app.command(epilog=f"Kinds of retrieval, for `--kinds`:\n\n{_KINDS}")
def main(
    named: Annotated[list[str], typer.Argument(metavar="NAME=PATH...", help=_NAMED, show_default=False)],
    output: Annotated[
        Path, typer.Option(help="Folder for results.json, report.md, report.html.", show_default=False)
    ],
    suite: Annotated[str, typer.Option(metavar="NAME|FILE", help=_SUITE)] = "quick",
    text: Annotated[Path | None, typer.Option(help=_TEXT, show_default="a synthetic one")] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="lm-eval tasks or groups, run as lm-eval does, instead of the suite's."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Take task NAME's documents from DIR/NAME.jsonl.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Examples in a task's prompt; its own number if not given.")
    ] = None,
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template/--no-chat-template", help="Task prompts in the tokenizer's template."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(metavar="hf|vllm", help="What runs the tasks; vllm for native checkpoints only."),
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="A,B", help="Kinds of retrieval (below), not the suite's.")
    ] = None,
    lengths: Annotated[str | None, typer.Option(metavar="N,N", help=_LENGTHS)] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most this many samples per cell, task, measure.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (own dtype, float32 on CPU), float32, bfloat16, float16.")
    ] = "auto",
    batch_size: Annotated[
        str, typer.Option(metavar="auto|N", help="Sequences at a time; auto chooses by length.")
    ] = "auto",
    seed: Annotated[int | None, typer.Option(help="Instead of the suite's seed.")] = None,
    gate: Annotated[str | None, typer.Option(metavar="CONDITIONS", help=GATE_HELP)] = None,
) -> None:
    """Measure checkpoints side by side: perplexity, agreement, retrieval, lm-eval tasks, attention, KV bytes,
    speed.

    Ends with a table and the path of the report. A second run with the same --output measures only what is
    new.

    Example: `python -m eval source=models/a converted=models/b --text book.txt --output runs/compare`

    `accelerate launch -m eval ...` shares the tasks' documents out among GPUs; the other measures run on the
    first.

    `python -m eval compare --help`: put saved evaluations side by side; `python -m eval speed --help`: time
    attention and decoding by backend; `python -m eval cache --help`: put ways of keeping a cache side by
    side.
    """
    console = make_console()
    with one_line_errors("stopped; the same command continues with what is missing"):
        pairs = [split_pair(argument) for argument in named]
        check_names([name for name, _ in pairs])
        options = {
            "data_dir": None if data_dir is None else str(data_dir),
            "num_fewshot": num_fewshot,
            "chat_template": chat_template,
            "backend": backend,
        }
        chosen = narrow(
            load_suite(suite),
            lengths=None if lengths is None else split_numbers("--lengths", lengths, LEAST_TOKENS),
            tasks=tasks.split(",") if tasks else None,
            limit=limit,
            task_options={key: value for key, value in options.items() if value is not None},
            kinds=kinds.split(",") if kinds else None,
        )
        rows = _batch_size(batch_size)
        changes: dict[str, object] = {}
        if text is not None:
            changes |= {"text": str(text), "text_start": 0.0}
        if seed is not None:
            changes["seed"] = seed
        # torch and transformers take seconds to import: a mistyped command should not wait for them.
        from eval.progress import Reporter
        from eval.report.terminal import print_summary
        from eval.run import evaluate

        results = evaluate(
            pairs,
            chosen.model_copy(update=changes),
            output,
            device=device,
            dtype=dtype,
            batch_size=rows,
            command="python -m eval " + shlex.join(sys.argv[1:]),
            reporter=Reporter(console),
            gate=gate,
        )
    if launched_rank() == 0:
        print_summary(results, console)
        console.print(f"report: {output / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    if not all(outcome.passed for outcome in results.gates):
        raise typer.Exit(FAILED)


def _batch_size(text: str) -> int | None:
    """``auto`` as None, ``8`` as a number.

    Raises:
        EvalError: neither, or less than 1.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise EvalError(f"--batch-size {text!r} must be auto or a number of at least 1")
    return int(text)


if __name__ == "__main__":
    # No checkpoint can be given by these words, because they have no "=" in them.
    if sys.argv[1:2] == ["speed"]:
        speed(sys.argv[2:], prog_name="python -m eval speed")
    elif sys.argv[1:2] == ["cache"]:
        cache(sys.argv[2:], prog_name="python -m eval cache")
    elif sys.argv[1:2] == ["compare"]:
        compare(sys.argv[2:], prog_name="python -m eval compare")
    else:
        with parting():
            app(prog_name="python -m eval")
