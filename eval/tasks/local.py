"""Local copies of lm-eval's data sets: ``DIR/NAME.jsonl`` holds the documents of lm-eval's task ``NAME``.

lm-eval's own definition of the task stays, with its prompts, targets, filters and metrics: a YAML file that
includes it and names another source of documents stands before it on lm-eval's ``include_path``. Few-shot
examples come from ``DIR/NAME.train.jsonl``.

A row has the fields of the data set, or those of mosaicml/llm-foundry, which are mapped back:

- LAMBADA, ``context`` and ``continuation``: both sides of the last space of ``text``, joined by that space.
- PIQA, ``query``: ``Question: GOAL`` and a newline; the two ``choices`` are ``sol1`` and ``sol2``.
- ARC, ``query``: ``Question: QUESTION``; ``choices`` get letters for labels, because the file does not keep
  the data set's (some are digits there). lm-eval's definition only looks up the answer's place among them.
"""

import atexit
import hashlib
import json
import re
import shutil
import string
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks

from eval.errors import EvalError
from eval.json_lines import json_lines

Row = dict[str, Any]

LIBRARY = Path(lm_eval.tasks.__file__).parent
QUESTION = "Question: "


@dataclass(frozen=True)
class LocalTask:
    """A task of lm-eval whose documents lie in a local file.

    Attributes:
        definition: lm-eval's own YAML file.
        documents: The file with the documents.
        examples: The file with few-shot examples; None where there is none.
        digest: sha256 of both files' contents.
    """

    name: str
    definition: Path
    documents: Path
    examples: Path | None
    digest: str


def local_tasks(folder: str | Path, names: Sequence[str], complete: bool) -> tuple[LocalTask, ...]:
    """The tasks of lm-eval that have a file in ``folder``.

    Args:
        folder: Where the files are.
        names: The tasks that were asked for.
        complete: Whether all the folder's tasks count, as members of groups, and not only ``names``.

    Raises:
        EvalError: there is no such folder, or it has a file for none of lm-eval's tasks that count.
    """
    place = Path(folder)
    if not place.is_dir():
        raise EvalError(f"data folder {str(folder)!r} is not a folder")
    files = {path.stem: path for path in sorted(place.glob("*.jsonl")) if not path.stem.endswith(".train")}
    found = []
    for name, path in files.items():
        definition = _definition(name) if complete or name in names else None
        if definition is not None:
            examples = path.with_name(f"{name}.train.jsonl")
            kept = examples if examples.is_file() else None
            found.append(LocalTask(name, definition, path, kept, _digest([path, kept])))
    if not found:
        raise EvalError(
            f"data folder {str(folder)!r} has no NAME.jsonl for {', '.join(names)}; "
            f"it has: {', '.join(files) or 'none'}"
        )
    return tuple(found)


@cache
def definitions(tasks: tuple[LocalTask, ...]) -> Path:
    """A folder for lm-eval's ``include_path``: one YAML file per task. It goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="headroom-tasks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for task in tasks:
        files = {"local_task": task.name, "documents": str(task.documents.resolve())}
        if task.examples is not None:
            files["examples"] = str(task.examples.resolve())
        train = "train" if task.examples is not None else "null"
        lines = (
            f"include: {json.dumps(str(task.definition))}",
            "tag: null",
            "custom_dataset: !function eval.tasks.local.read",
            f"dataset_kwargs: {json.dumps(files)}",
            "test_split: test",
            "validation_split: null",
            f"training_split: {train}",
            f"fewshot_split: {train}",
        )
        (folder / f"{task.name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read(
    local_task: str, documents: str, examples: str | None = None, **_metadata: Any
) -> dict[str, datasets.Dataset]:
    """The documents of a task as lm-eval's definition expects them; lm-eval calls this.

    Args:
        local_task: The task's name.
        documents: Path of the JSON lines file with the documents.
        examples: Path of the file with few-shot examples.
        _metadata: What lm-eval passes to every source of documents.

    Returns:
        The split ``test``, and ``train`` where there are examples.

    Raises:
        EvalError: a file is not readable, a line is not a JSON object or has not the fields it should have.
    """
    splits = {"test": documents} | ({"train": examples} if examples else {})
    adapt = ADAPTERS.get(local_task)
    return {
        split: datasets.Dataset.from_list(list(_rows(Path(path), adapt))) for split, path in splits.items()
    }


def _rows(path: Path, adapt: Callable[[Row], Row] | None) -> Iterable[Row]:
    empty = True
    for where, row in json_lines(path, "data file"):
        empty = False
        try:
            yield adapt(row) if adapt is not None else row
        except (KeyError, ValueError) as error:
            what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise EvalError(f"{where}: {what}") from None
    if empty:
        raise EvalError(f"data file {str(path)!r} is empty")


def adapt_lambada(row: Row) -> Row:
    """``text``; lm-eval cuts it at its last space again."""
    if "text" in row:
        return row
    if " " in row["continuation"]:
        raise ValueError(f"continuation {row['continuation']!r} must be one word: lm-eval asks for the last")
    return {"text": f"{row['context']} {row['continuation']}"}


def adapt_piqa(row: Row) -> Row:
    """``goal``, ``sol1``, ``sol2`` and ``label``."""
    if "goal" in row:
        return row
    first, second = _choices(row, exactly=2)
    return {"goal": _question(row).removesuffix("\n"), "sol1": first, "sol2": second, "label": row["gold"]}


def adapt_arc(row: Row) -> Row:
    """``question``, ``choices`` with ``text`` and ``label``, and ``answerKey``."""
    if "question" in row:
        return row
    choices = _choices(row)
    labels = list(string.ascii_uppercase[: len(choices)])
    return {
        "question": _question(row),
        "choices": {"text": choices, "label": labels},
        "answerKey": labels[row["gold"]],
    }


ADAPTERS: Mapping[str, Callable[[Row], Row]] = {
    "lambada_openai": adapt_lambada,
    "piqa": adapt_piqa,
    "arc_easy": adapt_arc,
    "arc_challenge": adapt_arc,
}


def _question(row: Row) -> str:
    query = str(row["query"])
    if not query.startswith(QUESTION):
        raise ValueError(f"query {query[:40]!r} must begin with {QUESTION!r}")
    return query.removeprefix(QUESTION)


def _choices(row: Row, exactly: int | None = None) -> list[str]:
    choices, gold = list(row["choices"]), row["gold"]
    if exactly is not None and len(choices) != exactly:
        raise ValueError(f"choices: got {len(choices)}, needs {exactly}")
    if not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise ValueError(f"gold={gold!r} must be the place of one of the {len(choices)} choices, from 0")
    return choices


@cache
def _definition(name: str) -> Path | None:
    """lm-eval's YAML file of a task: mostly the one of that name, and searching 14,000 takes a second."""
    line = re.compile(rb"^task:\s*[\"']?" + re.escape(name).encode() + rb"[\"']?\s*$", re.MULTILINE)
    candidates = chain(LIBRARY.rglob(f"{name}.yaml"), LIBRARY.rglob("*.yaml"))
    return next((path for path in candidates if line.search(path.read_bytes())), None)


def _digest(paths: Sequence[Path | None]) -> str:
    sha = hashlib.sha256()
    for path in paths:
        if path is not None:
            sha.update(hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()
