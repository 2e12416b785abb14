"""Where a recipe takes its training text from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from eval.errors import unknown_name
from eval.retrieval import KINDS
from recipes.schema.part import Part, Share


class FileData(Part):
    """Text from a file: ``.txt`` with blank lines between documents, or ``.jsonl``.

    Attributes:
        file: Path, relative to the recipe.
        column: Key of the text in each line of a ``.jsonl``.
    """

    kind: Literal["file"]
    file: str
    column: str = "text"


class DatasetData(Part):
    """Text from ``datasets.load_dataset``.

    Attributes:
        dataset: Name on the hub, or a local folder or builder (``json``, ``text``, ``parquet``).
        config: Configuration of the data set.
        data_files: Files for a builder, relative to the recipe.
        split: Which split.
        column: Column of the text.
        streaming: Read while training instead of downloading all of it first.
    """

    kind: Literal["dataset"]
    dataset: str
    config: str | None = None
    data_files: str | None = None
    split: str = "train"
    column: str = "text"
    streaming: bool = False


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
    """

    kind: Literal["retrieval"]
    file: str
    kinds: Annotated[list[str], Field(min_length=1)] = Field(default=["needle"])
    lengths: Annotated[list[Annotated[int, Field(ge=32)]], Field(min_length=1)] = Field(default=[256, 500])
    documents: PositiveInt = 10000
    digits: Annotated[int, Field(ge=2, le=12)] = 5
    seed: int = 1000

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
    """

    kind: Literal["tiny"]
    documents: PositiveInt = 2000
    tokens: Annotated[int, Field(ge=64)] = 512
    needle_share: Share = 0.5
    needles: PositiveInt = 1
    seed: int = 1000


Data = Annotated[FileData | DatasetData | RetrievalData | TinyData, Field(discriminator="kind")]
