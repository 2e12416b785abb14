"""Which tasks there are: this project's own, lm-eval's, and those of lm-eval with local documents."""

import logging
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from lm_eval.tasks import TaskManager

from eval.checkpoint import one_line
from eval.errors import EvalError, unknown_name
from eval.sections import TasksSection
from eval.tasks.local import LocalTask, definitions, local_tasks

OWN_TASKS = Path(__file__).parent
OWN_PREFIX = "headroom_"
TASK_ERRORS = (OSError, ValueError, RuntimeError, KeyError, ImportError, AssertionError, jinja2.TemplateError)
"""What a task of lm-eval raises when its data cannot be had or do not fit it."""


def own_task_names() -> list[str]:
    """Names of the offline tasks in this folder."""
    lines = (line for path in OWN_TASKS.glob("*.yaml") for line in path.read_text("utf-8").splitlines())
    return sorted(line.split(":", 1)[1].strip() for line in lines if line.startswith("task:"))


def local_of(section: TasksSection) -> tuple[LocalTask, ...]:
    """The asked tasks whose documents lie in ``data_dir``; with names of groups, all that lie there.

    Raises:
        EvalError: ``data_dir`` is not a folder, or has nothing that is asked for.
    """
    if section.data_dir is None:
        return ()
    own = own_task_names()
    others = [name for name in section.names if name not in own]
    here = [name for name in others if (Path(section.data_dir) / f"{name}.jsonl").is_file()]
    return local_tasks(section.data_dir, section.names, complete=here != others)


def manager_of(section: TasksSection) -> Any:
    """A task manager that knows the section's tasks.

    Raises:
        EvalError: a name that nobody knows, or an unusable ``data_dir``.
    """
    own = own_task_names()
    for name in section.names:
        if name.startswith(OWN_PREFIX) and name not in own:
            raise EvalError(unknown_name("task", name, own))
    local = local_of(section)
    found = {*own, *(task.name for task in local)}
    manager = _manager(OWN_TASKS, local, with_library=not set(section.names) <= found)
    _check_names(section.names, set(manager.all_tasks))
    return manager


def check_section(section: TasksSection) -> None:
    """Refuse unknown names, local files that do not fit, and few-shot prompts without examples of their own.

    Raises:
        EvalError: see above.
    """
    manager = manager_of(section)
    for task in local_of(section):
        # lm-eval reads the documents and fills the first one's prompt when it makes a task.
        try:
            own_number = manager.load([task.name])["tasks"][task.name].config.num_fewshot
        except EvalError:
            raise
        except TASK_ERRORS as error:
            raise EvalError(
                f"data file {str(task.documents)!r} does not fit task {task.name!r}: {one_line(error)}"
            ) from None
        asked = own_number if section.num_fewshot is None or own_number == 0 else section.num_fewshot
        if asked and task.examples is None:
            raise EvalError(
                f"task {task.name!r}: {asked}-shot prompts need examples that are not asked themselves: "
                f"{section.data_dir!r} has no {task.name}.train.jsonl"
            )


@cache
def _manager(own: Path, local: tuple[LocalTask, ...], with_library: bool) -> Any:
    """Reading lm-eval's 14,000 definitions takes many seconds: once, and only where one is asked for."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = [str(own), *([str(definitions(local))] if local else [])]
    return TaskManager(include_path=folders, include_defaults=with_library)


def _check_names(names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            near = unknown_name("task", name, known)
            raise EvalError(
                near if len(known) < 20 else near.split("known:")[0] + f"{len(known)} names are known"
            )
