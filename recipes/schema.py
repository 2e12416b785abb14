"""What a recipe can say. Unknown keys are errors."""

from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from eval.suite import Suite

RESERVED = {
    "source", "converted", "uptrained", "stages", "training", "measurements", "samples",
    "results.json", "report.md", "report.html",
}  # fmt: skip
"""What a run puts into its folder, beside one folder per ablation."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj"]


class Part(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConvertPart(Part):
    """One conversion of the source; the keys are the options of ``python -m convert``.

    A file in ``calibrate`` is relative to the recipe.
    """

    kv_heads: PositiveInt | str | None = None
    merge: str | None = None
    group: str = "adjacent"
    calibrate: str | None = None
    calibrate_tokens: PositiveInt = 32768
    calibrate_batch: PositiveInt = 8
    device: str = "cpu"
    refit: bool | None = None
    reconstruct: Annotated[int, Field(ge=0)] | None = None
    window: PositiveInt | None = None
    sinks: Annotated[int, Field(ge=0)] = 0
    positions: str = "absolute"
    global_layers: str = "none"
    cache: str = "full"
    window_cache: str = "full"
    dtype: str | None = None
    seed: int = 0

    @field_validator("global_layers", mode="before")
    @classmethod
    def _number_is_a_layer(cls, value: object) -> object:
        return str(value) if type(value) is int else value


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


class LoraPart(Part):
    """Low-rank adapters, by ``peft``. ``full`` projections are trained whole instead."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.0
    targets: Annotated[list[Projection], Field(min_length=1)] = ["q_proj", "k_proj", "v_proj", "o_proj"]
    full: list[Projection] = []

    @model_validator(mode="after")
    def _disjoint(self) -> "LoraPart":
        both = sorted(set(self.targets) & set(self.full))
        if both:
            raise ValueError(f"{', '.join(both)} cannot be both a target of LoRA and trained in full")
        return self


class UptrainPart(Part):
    """A short training of the converted checkpoint with the source as teacher.

    Attributes:
        data: Where the text comes from.
        steps: Optimizer steps.
        length: Tokens of a training row; documents are packed into rows.
        batch_size: Rows per device and pass.
        accumulate: Passes per step.
        learning_rate: Peak; warmed up, then decayed by a cosine to zero.
        warmup_steps: Steps to the peak.
        weight_decay: AdamW's.
        kl_weight: Weight of the KL divergence from the teacher to the student, per token.
        ce_weight: Weight of the usual next-token loss.
        attention_weight: Weight of the distance between every attention's output and the teacher's, relative
            to the size of the teacher's. Gives each layer its own target, so that little text goes far.
        lora: What is trained.
        gradient_checkpointing: Less memory, more time.
        bf16: Mixed precision in bfloat16.
        log_every: Steps between log lines.
        save_every: Steps between checkpoints that ``--resume`` continues from.
        seed: Of the adapters and of dropout; text is read in its own order.
    """

    data: Data
    steps: PositiveInt
    length: Annotated[int, Field(ge=16)] = 2048
    batch_size: PositiveInt = 1
    accumulate: PositiveInt = 1
    learning_rate: Annotated[float, Field(gt=0.0)] = 2e-4
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    weight_decay: NonNegativeFloat = 0.0
    kl_weight: NonNegativeFloat = 1.0
    ce_weight: NonNegativeFloat = 0.0
    attention_weight: NonNegativeFloat = 0.0
    lora: LoraPart = LoraPart()
    gradient_checkpointing: bool = False
    bf16: bool = False
    log_every: PositiveInt = 10
    save_every: PositiveInt = 100
    seed: int = 0

    @model_validator(mode="after")
    def _some_loss(self) -> "UptrainPart":
        if not (self.kl_weight or self.ce_weight or self.attention_weight):
            raise ValueError("kl_weight, ce_weight and attention_weight are all 0: nothing to learn from")
        return self


class Recipe(Part):
    """Convert, measure, uptrain, measure.

    Attributes:
        name: Names the run's folder.
        description: One sentence for the list.
        workload: What it is for.
        source: Checkpoint folder relative to the recipe, or a hub id.
        convert: The conversion.
        ablations: More conversions to measure beside it, by name.
        uptrain: The training; absent: none.
        eval: What to measure, the keys of a suite; its paths are relative to the recipe.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    workload: Literal["chat", "documents", "any"] = "any"
    source: str
    convert: ConvertPart
    ablations: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")], ConvertPart] = {}
    uptrain: UptrainPart | None = None
    eval: Suite

    @model_validator(mode="after")
    def _columns_differ(self) -> "Recipe":
        taken = sorted(set(self.ablations) & RESERVED)
        if taken:
            raise ValueError(f"an ablation cannot be called {taken[0]!r}: the run uses that name itself")
        return self
