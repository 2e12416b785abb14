"""A suite says what to measure: a YAML file with one section per measure, read strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from eval.errors import EvalError, unknown_name
from eval.sections import (
    AgreementSection,
    ConsistencySection,
    FootprintSection,
    NeedleSection,
    PerplexitySection,
    ReachSection,
    Section,
    SpeedSection,
    TasksSection,
)
from eval.strict import parse_strict

SUITES = Path(__file__).parent / "suites"


class Suite(BaseModel):
    """What to measure and on which text. A section that is absent is not measured.

    Attributes:
        name: Shown in the report.
        description: One sentence for the report.
        text: A text file, relative to the suite file; the built-in synthetic text when not given.
        text_start: Skip this fraction of the text, for files whose beginning was trained on.
        seed: Draws haystacks, keys and values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "custom"
    description: str = ""
    text: str | None = None
    text_start: float = Field(default=0.0, ge=0.0, lt=1.0)
    seed: int = 0
    perplexity: PerplexitySection | None = None
    agreement: AgreementSection | None = None
    needle: NeedleSection | None = None
    tasks: TasksSection | None = None
    reach: ReachSection | None = None
    consistency: ConsistencySection | None = None
    footprint: FootprintSection | None = None
    speed: SpeedSection | None = None

    def sections(self) -> dict[str, Section]:
        """The sections that are present, by the name of their measure, in the order of this class."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in found.items() if isinstance(value, Section)}

    def beside(self, folder: Path) -> "Suite":
        """The suite with its paths absolute; they are relative to its file, which lies in ``folder``."""
        changes: dict[str, Any] = {}
        if self.text is not None:
            changes["text"] = str((folder / self.text).resolve())
        if self.tasks is not None and self.tasks.data_dir is not None:
            data_dir = str((folder / self.tasks.data_dir).resolve())
            changes["tasks"] = self.tasks.model_copy(update={"data_dir": data_dir})
        return self.model_copy(update=changes)


def suite_names() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name_or_file: str | Path) -> Suite:
    """Read a suite by its name (``quick``) or from a YAML file.

    Raises:
        EvalError: no such suite or file, YAML that does not parse, an unknown key, a value that is not
        allowed.
    """
    given = str(name_or_file)
    path = SUITES / f"{given}.yaml" if given in suite_names() else Path(given)
    if not path.is_file():
        if path.suffix in {".yaml", ".yml"}:
            raise EvalError(f"suite file {given!r} does not exist")
        raise EvalError(unknown_name("suite", given, suite_names()) + "; or give a .yaml file")
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EvalError(f"suite {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    suite = parse_strict(Suite, data, where=f"suite {path}")
    return suite.beside(path.parent)


def narrow(
    suite: Suite,
    lengths: list[int] | None = None,
    tasks: list[str] | None = None,
    limit: int | None = None,
    task_options: Mapping[str, Any] | None = None,
    kinds: list[str] | None = None,
) -> Suite:
    """The suite with the command line's options put in.

    Args:
        lengths: Needle and footprint lengths; the longest becomes the length of the other measures, of which
            speed decodes the last tokens.
        tasks: lm-eval task names, run as lm-eval runs them: what the suite says about tasks is about its own.
        limit: At most this many contexts, prompts, documents per needle cell and documents per task.
        task_options: Values of the ``tasks`` section.
        kinds: Kinds of retrieval; a suite without any gets them.

    Raises:
        EvalError: task options, but neither the suite nor ``tasks`` names a task.
    """
    data: dict[str, Any] = suite.model_dump(exclude_none=True)
    if tasks:
        data["tasks"] = {"names": tasks}
    if task_options:
        if "tasks" not in data:
            raise EvalError(
                f"{', '.join(task_options)}: suite {suite.name!r} has no lm-eval tasks: give --tasks"
            )
        data["tasks"] |= task_options
    if kinds:
        data["needle"] = {**data.get("needle", {}), "kinds": kinds}
    if lengths:
        longest = max(lengths)
        for name in ("needle", "footprint"):
            if name in data:
                data[name]["lengths"] = sorted(set(lengths))
        for name in ("perplexity", "agreement", "consistency"):
            if name in data:
                data[name]["length"] = longest
        if "speed" in data:
            data["speed"]["length"] = max(2, longest - data["speed"]["decode_tokens"] - 1)
        for name, key, most in (
            ("perplexity", "past", longest - 1),
            ("agreement", "past", longest - 1),
            ("perplexity", "stride", longest - 2),
        ):
            if data.get(name, {}).get(key, 0) > most:
                del data[name][key]
    if limit:
        for name, key, least in _LIMITED:
            if name in data:
                data[name][key] = max(least, min(limit, data[name].get(key) or limit))
    return parse_strict(Suite, data, where="suite with the command line's options")


_LIMITED = (
    ("perplexity", "contexts", 2),
    ("agreement", "contexts", 2),
    ("consistency", "samples", 2),
    ("needle", "samples", 1),
    ("needle", "controls", 1),
    ("tasks", "limit", 1),
)
