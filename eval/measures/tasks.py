"""lm-eval tasks: those of its library by name, and this project's own offline ones."""

import io
import logging
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from eval.checkpoint import one_line
from eval.errors import EvalError, unknown_name
from eval.measures.base import Ask, Measure
from eval.results import Metric, Outcome

OWN_TASKS = Path(__file__).parents[1] / "tasks"
OWN_PREFIX = "headroom_"
BATCH_SIZE = 16
_SHARES = {"acc", "acc_norm", "exact_match", "f1", "em", "mcc"}


def own_task_names() -> list[str]:
    """Names of the offline tasks in ``eval/tasks``."""
    lines = (line for path in OWN_TASKS.glob("*.yaml") for line in path.read_text("utf-8").splitlines())
    return sorted(line.split(":", 1)[1].strip() for line in lines if line.startswith("task:"))


def run(ask: Ask) -> Outcome:
    """Run ``simple_evaluate`` on the loaded model.

    Raises:
        EvalError: an unknown task, a request that is too long, data that cannot be had.
    """
    from lm_eval import simple_evaluate

    from eval.lm import StrictLM

    section = ask.section
    manager = _manager(section.names)
    try:
        # Its progress bars go to stderr whatever its verbosity; errors come out as exceptions.
        with redirect_stderr(io.StringIO()):
            results: Any = simple_evaluate(
                model=StrictLM(ask.subject, ask.batch_size or BATCH_SIZE, section.bos == "always"),
                tasks=list(section.names),
                num_fewshot=section.fewshot,
                limit=section.limit,
                task_manager=manager,
                bootstrap_iters=1000,
                random_seed=ask.seed,
                numpy_random_seed=ask.seed,
                torch_random_seed=ask.seed,
                fewshot_random_seed=ask.seed,
            )
    except EvalError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise EvalError(
            f"tasks {', '.join(section.names)} on {ask.subject.name!r}: {one_line(error)}"
        ) from error
    ask.tick(len(section.names))
    metrics = [metric for task in results["results"] for metric in _metrics(results, task)]
    samples = [
        {"task": task, "id": row["doc_id"], "filter": row.get("filter"), "target": str(row["target"])}
        | {"answer": row["filtered_resps"]}
        | {name: row[name] for name in row.get("metrics", ())}
        for task, rows in results.get("samples", {}).items()
        for row in rows
    ]
    kinds = {task: config.get("output_type") for task, config in results["configs"].items()}
    return Outcome(metrics=metrics, detail={"output_types": kinds}, samples=samples)


def _manager(names: list[str]) -> Any:
    """A task manager that knows the own tasks, and lm-eval's where one of those is asked for.

    Raises:
        EvalError: a name that neither knows.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with_library = not set(names) <= set(own_task_names())
    manager = TaskManager(include_path=str(OWN_TASKS), include_defaults=with_library)
    known = set(manager.all_tasks)
    for name in names:
        if name not in known:
            near = unknown_name("task", name, known)
            raise EvalError(
                near if len(known) < 20 else near.split("known:")[0] + f"{len(known)} names are known"
            )
    return manager


def _metrics(results: Any, task: str) -> list[Metric]:
    """The metrics of one task or group."""
    metrics = []
    rows = results["results"][task]
    n = results["n-samples"].get(task, {}).get("effective", 0)
    for key, value in rows.items():
        name, _, filter_name = key.partition(",")
        if name.endswith("_stderr") or not filter_name or not isinstance(value, int | float):
            continue
        error = rows.get(f"{name}_stderr,{filter_name}")
        scale = 100 if name in _SHARES else 1
        higher = results.get("higher_is_better", {}).get(task, {}).get(name)
        metrics.append(
            Metric(
                key=f"{task}/{name}" + ("" if filter_name == "none" else f",{filter_name}"),
                label=f"{task} {name}",
                value=scale * value,
                stderr=scale * error if isinstance(error, int | float) else None,
                n=n,
                n_of="documents",
                unit="%" if scale == 100 else "",
                better="neither" if higher is None else ("higher" if higher else "lower"),
                per_sample=_per_sample(results, task, name, filter_name, scale),
            )
        )
    return metrics


def _per_sample(results: Any, task: str, name: str, filter_name: str, scale: int) -> list[float] | None:
    """Scores in the order of the documents, where each document has one."""
    rows = [
        row for row in results.get("samples", {}).get(task, []) if row.get("filter", "none") == filter_name
    ]
    rows.sort(key=lambda row: row["doc_id"])
    scores = [row.get(name) for row in rows]
    if not scores or not all(isinstance(score, int | float) for score in scores):
        return None
    return [scale * float(score) for score in scores]


def check(checkpoint: Any, section: Any) -> None:
    """Refuse unknown task names before anything is loaded."""
    own = own_task_names()
    unknown = [name for name in section.names if name not in own]
    for name in unknown:
        if name.startswith(OWN_PREFIX):
            raise EvalError(unknown_name("task", name, own))
    if unknown:
        _manager(section.names)


TASKS = Measure(
    name="tasks",
    how=(
        "lm-eval's own scores and standard errors over the documents. Log-likelihood tasks run through the "
        "model's mask, generation tasks through generate and its cache; an overlong request is an error."
    ),
    run=run,
    check=check,
    work=lambda section: len(section.names),
    uses_text=False,
)
