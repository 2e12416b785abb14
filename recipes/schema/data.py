"""Where a recipe takes its training text from."""

from glob import glob
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from eval.errors import unknown_name
from eval.retrieval import KINDS
from recipes.schema.part import Part, Share


class FileData(Part):
    """Text from files here: ``.txt`` with blank lines between documents, ``.jsonl`` or ``.parquet``.

    Attributes:
        file: Path or paths, relative to the recipe; ``*`` and ``**`` stand for names, taken in their order.
        column: Of the text in a ``.jsonl`` or ``.parquet``.
        seed: Of the order of documents, another in each pass; absent: the order of the files.
        weight: Of this source in a mixture.
    """

    kind: Literal["file"]
    file: str | Annotated[list[str], Field(min_length=1)]
    column: str = "text"
    seed: Annotated[int, Field(ge=0)] | None = None
    weight: PositiveFloat = 1.0


class DatasetData(Part):
    """Text from ``datasets.load_dataset``.

    Attributes:
        dataset: Name on the hub, or a local folder or builder (``json``, ``text``, ``parquet``).
        config: Configuration of the data set.
        data_files: File or files for a builder, as ``file`` above.
        split: Which split.
        column: Column of the text.
        streaming: Read while training instead of downloading all of it first.
        seed: Of the order of documents, another in each pass; absent: the data set's own.
        shuffle: Rows of the buffer that a stream is shuffled in; together with ``seed``, and only there.
        weight: Of this source in a mixture.
    """

    kind: Literal["dataset"]
    dataset: str
    config: str | None = None
    data_files: str | Annotated[list[str], Field(min_length=1)] | None = None
    split: str = "train"
    column: str = "text"
    streaming: bool = False
    seed: Annotated[int, Field(ge=0)] | None = None
    shuffle: PositiveInt | None = None
    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _a_stream_needs_a_buffer(self) -> "DatasetData":
        if self.shuffle is not None and not self.streaming:
            raise ValueError(
                "shuffle is the buffer of a stream; without streaming, seed alone orders all rows"
            )
        if self.streaming and (self.seed is None) != (self.shuffle is None):
            raise ValueError("a stream is shuffled by seed and shuffle (rows of the buffer) together")
        return self


class RetrievalData(Part):
    """Documents from ``eval.retrieval``: facts hidden in a text, a question about them, and its answer.

    A window loses first what such questions ask for, and plain text seldom asks; some of these among it bring
    it back. Facts stand at a depth drawn anew for each document.

    Attributes:
        file: Text to hide facts in, relative to the recipe; not the text that is measured on.
        kinds: Kinds of retrieval, drawn in turns.
        lengths: Tokens of a document, answer included, drawn for each.
        documents: How many documents.
        digits: Digits of every number to find.
        seed: Must differ from the one that is measured with.
        weight: Of this source in a mixture.
    """

    kind: Literal["retrieval"]
    file: str
    kinds: Annotated[list[str], Field(min_length=1)] = Field(default=["needle"])
    lengths: Annotated[list[Annotated[int, Field(ge=32)]], Field(min_length=1)] = Field(default=[256, 500])
    documents: PositiveInt = 10000
    digits: Annotated[int, Field(ge=2, le=12)] = 5
    seed: int = 1000
    weight: PositiveFloat = 1.0

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: list[str]) -> list[str]:
        for name in kinds:
            if name not in KINDS:
                raise ValueError(unknown_name("kind", name, KINDS))
        return kinds


class TinyData(Part):
    """Generated stories and needles, for checkpoints of ``recipes/tiny``.

    Attributes:
        documents: How many documents.
        tokens: Longest length of each.
        needle_share: Share of documents that end in a question.
        needles: Needles in such a document; each is asked for.
        seed: Must differ from the seed that the checkpoint was trained and is measured with.
        weight: Of this source in a mixture.
    """

    kind: Literal["tiny"]
    documents: PositiveInt = 2000
    tokens: Annotated[int, Field(ge=64)] = 512
    needle_share: Share = 0.5
    needles: PositiveInt = 1
    seed: int = 1000
    weight: PositiveFloat = 1.0


SourceData = FileData | DatasetData | RetrievalData | TinyData
Source = Annotated[SourceData, Field(discriminator="kind")]
Data = Source | Annotated[list[Source], Field(min_length=1)]
"""One source, or several: the next document is of a source with a chance in proportion to its weight."""


def sources_of(data: Data) -> list[SourceData]:
    """The sources of a recipe's data; one alone is a list of one."""
    return list(data) if isinstance(data, list) else [data]


def describe(data: Data) -> str:
    """The data in a few words, as in ``books.txt (70%), needles (30%)``."""
    sources = sources_of(data)
    total = sum(source.weight for source in sources)
    names = []
    for source in sources:
        named = getattr(source, "dataset", None) or getattr(source, "file", None) or source.kind
        name = ", ".join(named) if isinstance(named, list) else named
        names.append(name if len(sources) == 1 else f"{name} ({source.weight / total:.0%})")
    return ", ".join(names)


def local_files(data: Data) -> list[Path]:
    """The files here that a recipe's data names, in the order they are read in.

    Raises:
        ValueError: a path that is not there, or a pattern that no file has.
    """
    found: list[Path] = []
    for source in sources_of(data):
        if isinstance(source, FileData | RetrievalData):
            found += expand(source.file)
        elif isinstance(source, DatasetData) and source.data_files is not None:
            found += expand(source.data_files)
    return found


def expand(patterns: str | list[str]) -> list[Path]:
    """Paths and patterns as files.

    Raises:
        ValueError: a path that is not there, or a pattern that no file has.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # Path.glob takes no absolute pattern.
        names = [pattern] if Path(pattern).is_file() else sorted(glob(pattern, recursive=True))  # noqa: PTH207
        matching = [Path(name) for name in names if Path(name).is_file()]
        if not matching:
            raise ValueError(f"text {pattern} does not exist")
        files += matching
    return files
