"""lm-eval tasks: those of its library by name, with local documents, and this project's own offline ones."""

import gc
import io
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from eval.checkpoint import Checkpoint, load_tokenizer, one_line
from eval.errors import EvalError
from eval.measures.base import Ask, Measure
from eval.results import Metric, Outcome
from eval.sections import TasksSection
from eval.stats import mean

_SHARES = {"acc", "acc_norm", "exact_match", "f1", "em", "mcc"}
WINDOWED = "windowed_"
"""How the model types begin that only Headroom's own classes can run."""


def run(ask: Ask) -> Outcome:
    """Run ``simple_evaluate`` on the checkpoint.

    Returns:
        The outcome; in processes other than the main one it is empty.

    Raises:
        EvalError: an unknown task, a request that is too long, data that cannot be had.
    """
    from lm_eval import simple_evaluate

    from eval.tasks.catalog import TASK_ERRORS, manager_of

    section = ask.section
    if section.limit is not None and section.limit < ask.peers.size:
        raise EvalError(
            f"tasks: {section.limit} documents cannot be shared out among {ask.peers.size} processes"
        )
    try:
        # Its bars and remarks go to stderr and stdout whatever its verbosity; errors come out as exceptions.
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            model = _model(ask)
            results: Any = simple_evaluate(
                model=model,
                tasks=list(section.names),
                num_fewshot=section.num_fewshot,
                limit=section.limit,
                apply_chat_template=section.chat_template,
                task_manager=manager_of(section),
                bootstrap_iters=1000,
            )
    except EvalError:
        raise
    except TASK_ERRORS as error:
        raise EvalError(
            f"tasks {', '.join(section.names)} on {ask.subject.name!r}: {one_line(error)}"
        ) from error
    ask.tick(len(section.names))
    if results is None:
        return Outcome(metrics=[])
    metrics = [metric for task in results["results"] for metric in _metrics(results, task)]
    samples = [
        {"task": task, "id": row["doc_id"], "filter": row.get("filter"), "target": str(row["target"])}
        | {"prompt": row["arguments"][0][0], "answer": row["filtered_resps"]}
        | {name: row[name] for name in row.get("metrics", ())}
        for task, rows in results.get("samples", {}).items()
        for row in rows
    ]
    detail = {"tasks": _runs(section, results, model.notes), "processes": ask.peers.size}
    return Outcome(metrics=metrics, detail=detail, samples=samples)


def _model(ask: Ask) -> Any:
    """The checkpoint as lm-eval's model, on the section's backend.

    Raises:
        EvalError: vLLM was asked for in a way that it would not obey.
    """
    first = ask.section.bos == "always"
    if ask.section.backend == "hf":
        from eval.lm import StrictLM

        return StrictLM(ask.subject, ask.batch_size, first, ask.peers)
    if ask.peers.size > 1:
        raise EvalError("backend 'vllm' runs in one process: start it without accelerate launch")
    if ask.subject.device.index is not None:
        raise EvalError(
            f"backend 'vllm' takes no device by number, got {str(ask.subject.device)!r}: set "
            "CUDA_VISIBLE_DEVICES instead"
        )
    from eval.lm_vllm import StrictVLLM

    # vLLM takes most of the GPU for itself: models that were just dropped must be gone.
    gc.collect()
    return StrictVLLM(ask.subject, ask.batch_size, first)


def _runs(section: TasksSection, results: Any, notes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How every task ran, by its name."""
    from eval.tasks.catalog import local_of, own_task_names

    local = {task.name: task for task in local_of(section)}
    runs = {}
    for task, config in results["configs"].items():
        kind = config.get("output_type")
        if task in local:
            data = f"{local[task].documents} (sha256 {local[task].digest[:12]})"
        else:
            data = "made by eval/tasks" if task in own_task_names() else f"hub: {config.get('dataset_path')}"
        runs[task] = {
            "output_type": kind,
            "num_fewshot": results["n-shot"].get(task, 0),
            "chat_template": section.chat_template,
            "bos": section.bos,
            "data": data,
            **notes.get("loglikelihood" if kind == "multiple_choice" else kind, {}),
        }
    return runs


def _metrics(results: Any, task: str) -> list[Metric]:
    """The metrics of one task or group."""
    metrics = []
    rows = results["results"][task]
    n = _documents(results, task)
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
                per_sample=_per_sample(results, task, name, filter_name, scale, scale * value),
            )
        )
    return metrics


def _documents(results: Any, name: str) -> int:
    """Documents behind a task, or behind all tasks of a group."""
    if name in results["n-samples"]:
        return int(results["n-samples"][name]["effective"])
    return sum(_documents(results, child) for child in results["group_subtasks"].get(name, ()))


def _per_sample(
    results: Any, task: str, name: str, filter_name: str, scale: int, value: float
) -> list[float] | None:
    """Scores in the order of the documents, where each document has one and the metric is their mean."""
    rows = [
        row for row in results.get("samples", {}).get(task, []) if row.get("filter", "none") == filter_name
    ]
    rows.sort(key=lambda row: row["doc_id"])
    found = [row.get(name) for row in rows]
    if not found or not all(isinstance(score, int | float) for score in found):
        return None
    scores = [scale * float(score) for score in found]
    return scores if abs(mean(scores) - value) <= 1e-6 * max(1.0, abs(value)) else None


def check(checkpoint: Checkpoint, section: TasksSection) -> None:
    """Refuse before anything is loaded: unknown names, unusable local data, a backend or a chat template that
    the checkpoint has not.

    Raises:
        EvalError: see above.
    """
    kind = str(checkpoint.record.config["model_type"])
    if section.backend == "vllm":
        if kind.startswith(WINDOWED):
            raise EvalError(
                f"backend 'vllm' cannot run {checkpoint.name!r}: vLLM does not know {kind!r} and would "
                "attend densely; use backend 'hf'"
            )
        if find_spec("vllm") is None:
            raise EvalError("backend 'vllm' needs the package vllm, which is not installed: pip install vllm")
    if section.chat_template and load_tokenizer(checkpoint).chat_template is None:
        raise EvalError(f"chat template: the tokenizer of {checkpoint.name!r} has none")
    from eval.tasks.catalog import check_section

    check_section(section)


def _inputs(section: TasksSection) -> dict[str, Any]:
    """The version of lm-eval, which defines the tasks, and the contents of local files for their folder."""
    from eval.tasks.catalog import local_of

    return {"lm_eval": version("lm_eval"), "data_dir": {task.name: task.digest for task in local_of(section)}}


TASKS = Measure(
    name="tasks",
    how=(
        "lm-eval's own scores and standard errors over the documents. Log-likelihood tasks run through the "
        "model's mask, generation tasks through generate and its cache, by the checkpoint's generation "
        "settings where the task has none; an overlong request is an error."
    ),
    run=run,
    check=check,
    keys=("*/*",),
    work=lambda section: len(section.names),
    uses_text=False,
    split=True,
    inputs=_inputs,
    loads=lambda section: section.backend == "hf",
)
