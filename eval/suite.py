"""A suite says what to measure: a YAML file with one section per measure, read strictly."""

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
    if suite.text is not None:
        suite = suite.model_copy(update={"text": str((path.parent / suite.text).resolve())})
    return suite


def narrow(
    suite: Suite,
    lengths: list[int] | None = None,
    tasks: list[str] | None = None,
    limit: int | None = None,
    kinds: list[str] | None = None,
) -> Suite:
    """The suite with the command line's ``--lengths``, ``--tasks``, ``--limit`` and ``--kinds`` put in.

    Args:
        lengths: Needle and footprint lengths; the longest becomes the length of the other measures.
        tasks: lm-eval task names; a suite without tasks gets them.
        limit: At most this many contexts, prompts, documents per needle cell and documents per task.
        kinds: Kinds of retrieval; a suite without any gets them.
    """
    data: dict[str, Any] = suite.model_dump(exclude_none=True)
    if tasks:
        data["tasks"] = {**data.get("tasks", {}), "names": tasks}
    if kinds:
        data["needle"] = {**data.get("needle", {}), "kinds": kinds}
    if lengths:
        longest = max(lengths)
        for name in ("needle", "footprint"):
            if name in data:
                data[name]["lengths"] = sorted(set(lengths))
        for name in ("perplexity", "agreement", "consistency", "speed"):
            if name in data:
                data[name]["length"] = longest
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
