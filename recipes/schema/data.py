"""Where a recipe takes its training text from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

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


Data = Annotated[FileData | DatasetData | TinyData, Field(discriminator="kind")]
